"""Find every MR series in a tree of files, and say in one line why one cannot be used."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from cfmri_core.archive.entry import SeriesEntry, entries_of, stray_entry
from cfmri_core.archive.header_cache import FileRecord, HeaderCache, record_file
from cfmri_core.archive.reason import Reason
from cfmri_core.dicom.read import Series, read_files
from cfmri_core.errors import CfmriError, DicomReadError, ResourceError
from cfmri_core.progress import Progress, silent

__all__ = ["Reason", "SeriesEntry", "index_archive", "read_entry"]

#: Files that one process reads before it hands the records back.
CHUNK = 128
#: As many files are read sooner than processes start.
FEW_FILES = 1000


def index_archive(
    root: Path, *, cache: Path | None = None, workers: int = 0, progress: Progress = silent
) -> Iterator[SeriesEntry]:
    """Index a tree of files: headers are read (only those that changed, with a cache), series are yielded one by one.

    Args:
        root: Any tree; files that are not DICOM are passed over.
        cache: SQLite file that is made or brought up to date; it holds identifiers and paths, no names or dates.
        workers: Processes; 0 for one per core, 1 for none beside this one.
        progress: Called as ``progress(read, to read, "reading headers, N files/s")``.

    Yields:
        Series in order of their first file, then refused files that belong to none; first all reading is done.

    Raises:
        DicomReadError: The root is not a folder.
        RequestError: The cache is some other file.
        ResourceError: The cache cannot be written, or a process was killed.
    """
    if not Path(root).is_dir():
        raise DicomReadError(f"{root}: no such folder.", "Give the folder of an archive.")
    place = Path(root).resolve()
    headers = HeaderCache(cache)
    try:
        total = headers.compare(place)
        _read(headers, place, total, workers or os.cpu_count() or 1, progress)
        for records in headers.series():
            yield from entries_of(place, records, headers.has_stray_beside(records[0].series or ""))
        yield from map(stray_entry, headers.strays())
    finally:
        headers.close()


def read_entry(root: Path, entry: SeriesEntry) -> Series:
    """Read the volume of an entry; errors name its key where they would name a path.

    Raises:
        DicomReadError: See `cfmri_core.dicom.read.read_files`; or the entry was left out.
        GeometryError: Not one regular stack.
    """
    if entry.refusal is not None:
        raise DicomReadError(f"{entry.key}: {entry.refusal}")
    files = [Path(root) / file for file in entry.files]
    try:
        return read_files(files, entry.key)
    except CfmriError as error:
        message = error.message
        for file in files:
            message = message.replace(str(file), "a file")
        raise type(error)(message, error.hint) from None


def _read(headers: HeaderCache, root: Path, total: int, workers: int, progress: Progress) -> None:
    """Bring the cache up to date; what was read before an interruption stays read."""
    began, done = time.monotonic(), 0
    chunks = headers.pending(CHUNK)
    batches = (
        (_records(root, chunk, headers.salt) for chunk in chunks)
        if workers == 1 or total <= FEW_FILES
        else _in_processes(root, chunks, headers.salt, workers)
    )
    for batch in batches:
        headers.add(batch)
        done += len(batch)
        rate = done / max(time.monotonic() - began, 1e-6)
        progress(done, total, f"reading headers, {rate:.0f} files/s")


def _in_processes(
    root: Path, chunks: Iterator[list[tuple[bytes, int, int]]], salt: str, workers: int
) -> Iterator[list[FileRecord]]:
    """Read chunks in parallel, in order, with no more in flight than keeps the processes busy."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts)
    running: deque[Future[list[FileRecord]]] = deque()
    try:
        for chunk in chunks:
            running.append(pool.submit(_records, root, chunk, salt))
            if len(running) > 3 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool:
        raise ResourceError(
            "A process that reads headers was killed.", "What was read is kept; run again, with fewer --workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _records(root: Path, chunk: list[tuple[bytes, int, int]], salt: str) -> list[FileRecord]:
    return [record_file(root, path, size, mtime_ns, salt) for path, size, mtime_ns in chunk]


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which ends the processes in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
