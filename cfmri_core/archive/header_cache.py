"""What each file of a tree says, kept in SQLite so that a second look reads only what changed.

Kept are paths, identifiers, technical attributes and geometry. Names, dates and descriptions are not; a patient's
identifier and the time of an acquisition, which are only ever compared, are kept as digests with the cache's own
salt. The file is readable by its owner alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfmri_core.archive.reason import Reason
from cfmri_core.dicom.headers import MR_IMAGE_CLASSES
from cfmri_core.dicom.parser import is_dicom_file
from cfmri_core.dicom.peek import Peek, peek_parsed, peek_plain
from cfmri_core.dicom.pixels import require_pixel_format
from cfmri_core.errors import DicomReadError, RequestError, ResourceError, UnreadableFileError, UnsupportedImageError

#: Files with these suffixes are reported if they are no DICOM; others that are none are passed over.
PROMISING_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
#: Compared between images and never shown.
_DIGESTED = ("PatientID", "AcquisitionTime")
#: What the file system says of links to nothing or to themselves, and of what is gone since its folder was listed.
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ELOOP})
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"

_APPLICATION_ID = 0x63666D72  # "cfmr"
_FORMAT = 2  # 2: single-frame objects of several frames are refused, converted images give their parameters
_TABLES = """
CREATE TABLE salt (value TEXT);
CREATE TABLE files (
    path BLOB PRIMARY KEY, folder BLOB, size INTEGER, mtime_ns INTEGER, series TEXT, instance TEXT,
    kind TEXT, frames TEXT, reason TEXT, refusal TEXT
) WITHOUT ROWID;
CREATE INDEX by_series ON files (series, path);
CREATE INDEX by_folder ON files (folder, series);
"""


@dataclass(frozen=True)
class FileRecord:
    """What one file says.

    Attributes:
        path: Below the root, as the file system has it.
        folder: The part before the name.
        size: Bytes.
        mtime_ns: When it was changed.
        series: Series instance UID; ``None`` if the file is no DICOM or does not say.
        instance: SOP instance UID.
        kind: SOP class UID.
        frames: JSON: attributes shared by all frames, then per frame those of its own.
        reason: Why the file cannot be used; ``None`` = it can, or is no DICOM at all.
        refusal: The same in one line, without path.
    """

    path: bytes
    folder: bytes
    size: int
    mtime_ns: int
    series: str | None = None
    instance: str | None = None
    kind: str | None = None
    frames: str | None = None
    reason: str | None = None
    refusal: str | None = None

    def headers(self) -> list[dict[str, str]]:
        """Return one header per frame, as texts by keyword."""
        if self.frames is None:
            return []
        shared, *frames = json.loads(self.frames)
        return [{**shared, **own} for own in frames]


def record_file(root: Path, path: bytes, size: int, mtime_ns: int, salt: str) -> FileRecord:
    """Read one file's header; whatever is wrong with it is in the record."""
    place = (path, path.rpartition(b"/")[0], size, mtime_ns)
    full = root / os.fsdecode(path)
    try:
        found = peek_plain(full) or peek_parsed(full)
    except OSError as error:
        return FileRecord(*place, reason=Reason.UNREADABLE, refusal=f"cannot be read ({error.strerror})")
    except UnreadableFileError as error:
        return FileRecord(*place, **_refused(error, full))
    except DicomReadError as error:
        is_one = full.suffix.lower() in PROMISING_SUFFIXES or is_dicom_file(full)
        return FileRecord(*place, **_refused(error, full)) if is_one else FileRecord(*place)
    first = found.frames[0]
    if first.get("SOPClassUID") == MEDIA_DIRECTORY:
        return FileRecord(*place)
    series, instance = (first.get(keyword, "") for keyword in ("SeriesInstanceUID", "SOPInstanceUID"))
    if not (series and instance and series.isascii() and instance.isascii()):
        return FileRecord(*place, reason=Reason.DAMAGED, refusal="names no series or no instance")
    kind, frames = first.get("SOPClassUID"), _frames_text(found.frames, salt)
    return FileRecord(*place, series, instance, kind, frames, **_usability(found, full))


class HeaderCache:
    """The records of one tree.

    Args:
        path: SQLite file, made if absent; ``None`` keeps them in a temporary file without a name.

    Raises:
        RequestError: The file is something else.
        ResourceError: It cannot be written, or another run uses it.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        with self._errors():
            if path is not None:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect("" if path is None else path, isolation_level=None)
            self._prepare()
        self.salt = str(self._connection.execute("SELECT value FROM salt").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def compare(self, root: Path) -> int:
        """Walk a tree, forget files that are gone or could not be read, and return how many are to be read.

        What cannot be listed becomes a refused record.
        """
        with self._errors(), self._transaction():
            run = self._connection.execute
            run("DROP TABLE IF EXISTS temp.found")
            run("CREATE TEMP TABLE found (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER) WITHOUT ROWID")
            unlisted: list[FileRecord] = []
            self._connection.executemany("INSERT OR IGNORE INTO found VALUES (?, ?, ?)", walk(root, unlisted))
            run("DELETE FROM files WHERE (path, size, mtime_ns) NOT IN (SELECT path, size, mtime_ns FROM found)")
            run("DELETE FROM files WHERE reason = ?", (Reason.UNREADABLE,))  # perhaps it can be read this time
            self._keep(unlisted)
            run("DROP TABLE IF EXISTS temp.pending")
            run(
                "CREATE TEMP TABLE pending AS SELECT path, size, mtime_ns FROM found"
                " WHERE path NOT IN (SELECT path FROM files)"
            )
            return int(run("SELECT count(*) FROM pending").fetchone()[0])

    def pending(self, chunk: int) -> Iterator[list[tuple[bytes, int, int]]]:
        """Yield path, size and mtime_ns of the files to read, some at a time."""
        last = 0
        query = "SELECT rowid, path, size, mtime_ns FROM pending WHERE rowid > ? ORDER BY rowid LIMIT ?"
        while rows := self._connection.execute(query, (last, chunk)).fetchall():
            last = rows[-1][0]
            yield [tuple(row[1:]) for row in rows]

    def add(self, records: Iterable[FileRecord]) -> None:
        """Keep records; they are safe once this returns."""
        with self._errors(), self._transaction():
            self._keep(records)

    def series(self) -> Iterator[list[FileRecord]]:
        """Yield the records of one series after another, in order of their first file; records in path order."""
        query = "SELECT series FROM files WHERE series IS NOT NULL GROUP BY series ORDER BY min(path)"
        with self._errors():
            for (series,) in self._connection.execute(query):
                rows = self._connection.execute("SELECT * FROM files WHERE series = ? ORDER BY path", (series,))
                yield [FileRecord(*row) for row in rows]

    def strays(self) -> Iterator[FileRecord]:
        """Yield refused files that belong to no series, in path order."""
        query = "SELECT * FROM files WHERE series IS NULL AND reason IS NOT NULL ORDER BY path"
        yield from (FileRecord(*row) for row in self._connection.execute(query))

    def has_stray_beside(self, series: str) -> bool:
        """Whether a folder that holds this series alone also holds a refused file, or could not be listed itself."""
        query = """SELECT EXISTS (
            SELECT 1 FROM (SELECT DISTINCT folder FROM files WHERE series = ?1) AS own
            WHERE EXISTS (
                SELECT 1 FROM files
                WHERE (folder = own.folder OR path = own.folder) AND series IS NULL AND reason IS NOT NULL)
            AND NOT EXISTS (SELECT 1 FROM files WHERE folder = own.folder AND series IS NOT NULL AND series <> ?1))"""
        return bool(self._connection.execute(query, (series,)).fetchone()[0])

    def _keep(self, records: Iterable[FileRecord]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (tuple(vars(record).values()) for record in records),
        )

    def _prepare(self) -> None:
        run = self._connection.execute
        kind, version = run("PRAGMA application_id").fetchone()[0], run("PRAGMA user_version").fetchone()[0]
        tables = [name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables and kind != _APPLICATION_ID:
            raise sqlite3.DatabaseError("another application's")
        if version != _FORMAT:
            self._connection.executescript("".join(f'DROP TABLE "{name}";' for name in tables) + _TABLES)
            run("INSERT INTO salt VALUES (?)", (secrets.token_hex(16),))
            run(f"PRAGMA application_id = {_APPLICATION_ID}")
            run(f"PRAGMA user_version = {_FORMAT}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ResourceError(f"{self._path}: the cache cannot be used ({reason}).", "Name another.") from None
        except sqlite3.DatabaseError:
            raise RequestError(f"{self._path}: not a cache of cfmri index.", "Name another, or delete it.") from None


def walk(root: Path, unlisted: list[FileRecord]) -> Iterator[tuple[bytes, int, int]]:
    """Yield path below the root, size and mtime_ns of every regular file; links are followed, loops are not.

    Hidden files, links to nothing and what vanishes meanwhile are passed over; other folders and files that cannot be
    looked at are added to ``unlisted``.
    """
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        folder = folders.pop()
        with _noted(folder, unlisted):
            status = (root / folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}".lstrip("/")
                    with _noted(path, unlisted):
                        yield from _visited(entry, path, folders)


def _visited(entry: os.DirEntry[str], path: str, folders: list[str]) -> Iterator[tuple[bytes, int, int]]:
    if entry.name.startswith("."):
        return
    if entry.is_dir():
        folders.append(path)
    elif entry.is_file():
        status = entry.stat()
        yield os.fsencode(path), status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _noted(path: str, unlisted: list[FileRecord]) -> Iterator[None]:
    """Turn what the file system refuses into a record, unless there is nothing at the path."""
    try:
        yield
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return
        refusal = f"cannot be looked at ({error.strerror}): a series with images there may seem whole without them"
        name = os.fsencode(path)
        folder = name.rpartition(b"/")[0]
        unlisted.append(FileRecord(name, folder, 0, 0, reason=Reason.UNREADABLE, refusal=refusal))


def _frames_text(frames: tuple[dict[str, str], ...], salt: str) -> str:
    digested = [{**frame, **{k: _digest(salt, frame[k]) for k in _DIGESTED if k in frame}} for frame in frames]
    shared = set.intersection(*(set(frame.items()) for frame in digested)) if len(digested) > 1 else set()
    own = [dict(frame.items() - shared) if shared else frame for frame in digested]
    return json.dumps([dict(shared), *own], separators=(",", ":"))


def _digest(salt: str, text: str) -> str:
    return hashlib.blake2b(f"{salt}{text}".encode(errors="replace"), digest_size=12).hexdigest()


def _usability(found: Peek, path: Path) -> dict[str, Any]:
    if found.frames[0].get("SOPClassUID") not in MR_IMAGE_CLASSES:
        return {}
    try:
        require_pixel_format(found.frames[0], found.syntax, found.pixel_bytes)
    except DicomReadError as error:
        return _refused(error, path)
    return {}


def _refused(error: DicomReadError, path: Path) -> dict[str, Any]:
    kinds = {UnsupportedImageError: Reason.UNSUPPORTED, UnreadableFileError: Reason.UNREADABLE}
    return {"reason": kinds.get(type(error), Reason.DAMAGED), "refusal": error.message.removeprefix(f"{path}: ")}
