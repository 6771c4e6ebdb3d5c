"""Write a file or a folder whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cfmri_core.errors import RequestError, ResourceError


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success flush it and rename it into place.

    The temporary name keeps the target's suffixes, because writers such as nibabel choose the
    format by them.

    Raises:
        ResourceError: The folder cannot be written, or the disk is full.
    """
    target = Path(target)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            partial = folder / target.name
            yield partial
            flush(partial)
            os.replace(partial, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; on success rename it into place.

    An earlier folder of that name is replaced only once the new one is complete. A link is followed. Who may read the
    result is decided by the umask; until it is complete, its owner alone may.

    Raises:
        ResourceError: The parent cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(target))
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            partial = holder / "new"
            partial.mkdir()
            yield partial
            _exchange(partial, target, holder / "old")
        finally:
            shutil.rmtree(holder, ignore_errors=True)


def require_empty(folder: Path) -> None:
    """Refuse an output folder that would lose something.

    Raises:
        RequestError: It is a file, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RequestError(f"{folder}: exists already; nothing was written.", "Give a new or empty output folder.")


def require_replaceable(folder: Path) -> None:
    """Refuse, before any work is done, an output folder that `atomic_folder` could not put into place.

    It is tried: no look at permissions and mounts foretells all that a file system may refuse.

    Raises:
        RequestError: As `require_empty`; or it is a mount point, the current folder, or where nothing can be written.
    """
    require_empty(folder)
    place = Path(os.path.realpath(folder))
    try:
        if place.is_dir() and place.samefile(os.curdir):
            raise OSError(errno.EBUSY, "it is the current folder")
        _try_to_rename(place)
    except OSError as error:
        hint = f"Give a new folder in it, such as {folder / 'result'}." if place.is_dir() else "Give another folder."
        raise RequestError(
            f"{folder}: no result could be put into its place ({error.strerror}); nothing was written.", hint
        ) from None


def _try_to_rename(place: Path) -> None:
    above = next(parent for parent in place.parents if parent.exists())
    holder = Path(tempfile.mkdtemp(prefix=".part-", dir=above))
    try:
        if place.exists():
            os.replace(place, holder / "old")
            os.replace(holder / "old", place)
    finally:
        holder.rmdir()


def _exchange(new: Path, target: Path, old: Path) -> None:
    """Put a folder into place; if that fails, the earlier one is there again."""
    if not target.exists():
        os.replace(new, target)
        return
    os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        os.replace(old, target)
        raise


def flush(path: Path) -> None:
    """Have a file or a folder on the disk, so that a power failure does not leave a name without its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot write {target}: {_reason(error)}.", "Check free space and permissions, then try again."
        ) from error


def _reason(error: OSError) -> str:
    """What the system said: pydicom wraps it in an error whose text is a traceback, shutil in a list of every file."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][-1][-1])
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    return getattr(first, "strerror", None) or str(error)
