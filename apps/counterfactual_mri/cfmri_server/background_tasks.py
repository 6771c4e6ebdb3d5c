"""Trainings, scorings and batches: MONAI Label runs each in a process of its own, which must not outlive the server."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from typing import Any

import psutil
from monailabel.utils.async_tasks.utils import background_executors, background_processes, stop_background_task

#: Environment variable with the process of the server, for the processes that it starts.
SERVER_PID = "CFMRI_SERVER_PID"

#: How the last line of a traceback begins; group 1 is the kind of error.
_RAISED = re.compile(r"(?:\w+\.)*(\w+Error)(?::|$)")

_LOOK_EVERY_S = 0.2
_LONGEST_END_S = 10.0


def told(found: Any) -> Any:
    """Return what clients may know of a task of MONAI Label, or of a list of them.

    ``details`` are the last lines that its process wrote, with paths and names of images; of them the kind of error
    remains.
    """
    if isinstance(found, list):
        return [told(task) for task in found]
    if not found or "details" not in found:
        return found
    raised = [match[1] for line in list(found["details"]) if (match := _RAISED.match(line))]
    return {**found, "details": raised[-1:]}


def end_all() -> None:
    """End the tasks that run and forget those that wait; one that is just being started is ended too."""
    executors = list(background_executors.values())
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)
    ending = threading.Thread(target=lambda: [executor.shutdown() for executor in executors], daemon=True)
    ending.start()
    deadline_s = time.monotonic() + _LONGEST_END_S
    while ending.is_alive() and time.monotonic() < deadline_s:
        for method in [name for name, running in background_processes.items() if running]:
            with suppress(psutil.Error, StopIteration):  # it ended meanwhile
                stop_background_task(method)
        ending.join(_LOOK_EVERY_S)


def end_with_server() -> None:
    """Have this process end when the server that started it is gone, if one did: nobody could stop it any more."""
    server = int(os.environ.get(SERVER_PID, os.getpid()))
    if server != os.getpid():
        threading.Thread(target=_end_without, args=(server,), name="server-watch", daemon=True).start()


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)  # from a thread; what was written is whole, and a training goes on from its checkpoint
