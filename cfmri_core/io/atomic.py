"""Write a file or a folder whole, or not at all."""

from __future__ import annotations

import contextlib
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

    An earlier folder of that name is replaced only once the new one is complete.

    Raises:
        ResourceError: The parent cannot be written, or the disk is full.
    """
    target = Path(target)
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
        try:
            yield partial
            partial.chmod(0o755)
            if target.exists():
                old = partial.with_name(partial.name + ".old")
                os.replace(target, old)
                os.replace(partial, target)
                shutil.rmtree(old)
            else:
                os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def require_empty(folder: Path) -> None:
    """Refuse an output folder that would lose something.

    Raises:
        RequestError: It is a file, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RequestError(f"{folder}: exists already; nothing was written.", "Give a new or empty output folder.")


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
            f"Cannot write {target}: {error.strerror or error}.", "Check free space and permissions, then try again."
        ) from error
