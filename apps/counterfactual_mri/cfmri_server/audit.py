"""The audit log: who did what with which model. One JSON line for each event, each bound to the line before.

A line ends with ``"previous"``, the hash of the line before it, and ``"hash"``, the SHA-256 of its own bytes up to
there. So no byte can change unnoticed; that the newest lines were cut off shows only to somebody who noted their hash.
Ids are kept as keyed hashes: they may hold a patient's name, and a plain hash of a name is soon guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from cfmri_core.errors import CfmriError, RequestError, ResourceError
from cfmri_core.io.atomic import atomic_file

LOG_NAME = "audit.jsonl"
KEY_NAME = "key"

#: Action of a line that notes what a kill left of another.
TORN = "note torn line"

#: Fields whose values are kept as keyed hashes.
HASHED = ("image", "label", "session", "job")

#: What the first line calls the line before it.
_BEGINNING = "0" * 64

#: A line that the server was writing when it was killed is no longer than this, in bytes; the last ended line lies in
#: the bytes at the end that are read.
_LONGEST_TORN = 8192
_END_READ = 16 * _LONGEST_TORN

_LOCK_TIMEOUT_S = 20.0

_LINE = re.compile(rb'(\{.*,"previous":"([0-9a-f]{64})"),"hash":"([0-9a-f]{64})"\}')


class BrokenLogError(CfmriError):
    """An audit log is not as it was written."""


@dataclass(frozen=True)
class Verified:
    """What an unbroken log holds.

    Attributes:
        lines: Number of lines.
        torn: How many of them note a line that a kill of the server tore.
        last_hash: Hash of the last line. Noted elsewhere, it shows later whether lines were cut off.
    """

    lines: int
    torn: int
    last_hash: str


class AuditLog:
    """Appends to one log; several processes may do so at once.

    Args:
        folder: Where the log and the key of its hashes lie, for the server's account only.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME
        self._lock = threading.Lock()

    def append(self, event: Mapping[str, Any]) -> None:
        """Write one event to disk; it is there when this returns.

        What a kill left of a line is taken off the end, and noted as the event before this one.

        Raises:
            ResourceError: It cannot be written, or the last line of the log was changed.
        """
        with self._opened() as log:
            key = _key(self.path.parent)
            previous, torn = _ending(log)
            if torn:
                log.truncate(log.tell() - len(torn))
                previous = _write_line(log, {"who": "server", "action": TORN, "torn": torn.decode("latin-1")}, previous)
            hashed = {
                name: hashed_id(key, str(value)) if name in HASHED and value else value for name, value in event.items()
            }
            _write_line(log, hashed, previous)
            log.flush()
            os.fsync(log.fileno())

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(self.path.with_name("lock"), timeout=_LOCK_TIMEOUT_S)
            with self._lock, lock:
                self.path.touch(mode=0o600)
                with self.path.open("a+b") as log:
                    yield log
        except (OSError, Timeout) as error:
            reason = getattr(error, "strerror", None) or "another process holds it"
            raise ResourceError(f"The audit log cannot be written: {reason}.", "Nothing is done unaudited.") from error


def verify(path: Path, noted_hash: str = "") -> Verified:
    """Check every line of a log.

    Args:
        path: The log.
        noted_hash: A hash noted earlier that must still be there.

    Raises:
        BrokenLogError: A line was changed, added, taken out or torn; the message names the first.
    """
    previous, lines, torn = _BEGINNING, 0, 0
    is_noted = not noted_hash
    with path.open("rb") as log:
        for line in log:
            if not line.endswith(b"\n"):
                raise _broken(path, lines, "is torn; the server's next event mends and notes that")
            match = _whole_line(line[:-1])
            if match is None:
                raise _broken(path, lines, "was changed")
            if match[2].decode() != previous:
                raise _broken(path, lines, "does not follow the line before it")
            previous, lines = match[3].decode(), lines + 1
            torn += json.loads(line)["action"] == TORN
            is_noted = is_noted or previous == noted_hash
    if not is_noted:
        raise BrokenLogError(f"{path} does not hold a line with the hash {noted_hash}.", "Its end was cut off.")
    return Verified(lines, torn, previous)


def find(path: Path, identifier: str) -> list[dict[str, Any]]:
    """Return the events of one image, label, session or job, whose id the log does not spell out.

    Raises:
        RequestError: The key of the hashes does not lie beside the log.
    """
    key_path = path.parent / KEY_NAME
    if not key_path.is_file():
        raise RequestError(f"There is no {key_path}.", "Ids can be found only with the key that lies beside the log.")
    wanted = hashed_id(key_path.read_bytes(), identifier)
    with path.open("rb") as log:
        events = [json.loads(line) for line in log if wanted.encode() in line]
    return [event for event in events if wanted in (event.get(name) for name in HASHED)]


def hashed_id(key: bytes, identifier: str) -> str:
    """Return what the log writes for an id."""
    return hmac.new(key, identifier.encode("utf-8", errors="surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _write_line(log: BinaryIO, event: Mapping[str, Any], previous: str) -> str:
    whole = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event, "previous": previous}
    content = json.dumps(whole, separators=(",", ":"))[:-1]
    digest = hashlib.sha256(content.encode()).hexdigest()
    log.write(f'{content},"hash":"{digest}"}}\n'.encode())
    return digest


def _whole_line(line: bytes) -> re.Match[bytes] | None:
    """Take a line apart into content, hash of the line before, own hash; ``None`` if it was changed."""
    match = _LINE.fullmatch(line)
    is_whole = match is not None and hashlib.sha256(match[1]).hexdigest() == match[3].decode()
    return match if is_whole else None


def _ending(log: BinaryIO) -> tuple[str, bytes]:
    """Return the hash of the last ended line and what a kill left after it; leave the file at its end."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _END_READ))
    ended, _, torn = log.read().rpartition(b"\n")
    if len(torn) == size <= _LONGEST_TORN:
        return _BEGINNING, torn
    match = _whole_line(ended.rpartition(b"\n")[2])
    if match is None or len(torn) > _LONGEST_TORN:
        raise ResourceError(
            "The last line of the audit log was changed.",
            "Keep it under another name as evidence; a new one begins then.",
        )
    return match[3].decode(), torn


def _key(folder: Path) -> bytes:
    """Return the key of the hashes; the caller holds the log's lock, so it is made once."""
    path = folder / KEY_NAME
    if not path.exists():
        with atomic_file(path) as partial:
            partial.touch(mode=0o600)
            partial.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()


def _broken(path: Path, lines: int, what: str) -> BrokenLogError:
    return BrokenLogError(f"{path}: line {lines + 1} {what}.", f"The {lines} lines before it are as they were written.")
