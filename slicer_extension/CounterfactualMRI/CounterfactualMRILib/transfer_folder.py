"""Private temporary folders for volumes on their way to the server and back. Standard library only.

A folder goes when its job ends, else when Slicer ends, else when the module is used the next time.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path

_PREFIX = "CounterfactualMRI-"
#: Name of a folder, with the number of the process that made it.
_NAME = re.compile(_PREFIX + r"(\d{1,9})-\w+")
#: No transfer takes so many seconds.
_OLD_S = 24 * 3600.0


class TransferFolder:
    """A private temporary folder that `remove` deletes with all that is in it, at the end of the process at the latest.

    Attributes:
        path: Where it is.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        atexit.register(self.remove)

    def remove(self) -> None:
        """Delete the folder; a second call does nothing."""
        atexit.unregister(self.remove)
        shutil.rmtree(self.path, ignore_errors=True)


def sweepTransferFolders() -> None:
    """Delete the folders that this user's processes left behind when they were killed."""
    for path in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        if _isLeftBehind(path):
            shutil.rmtree(path, ignore_errors=True)


def _isLeftBehind(path: Path) -> bool:
    name = _NAME.fullmatch(path.name)
    try:
        status = path.lstat()
    except OSError:  # gone meanwhile
        return False
    if name is None or not stat.S_ISDIR(status.st_mode):
        return False
    if os.name == "nt":  # where asking after a process by signal 0 would interrupt it
        return time.time() - status.st_mtime > _OLD_S
    return status.st_uid == os.getuid() and not _isRunning(int(name.group(1)))


def _isRunning(processId: int) -> bool:
    try:
        os.kill(processId, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, under a number that is used again
        return True
    return True
