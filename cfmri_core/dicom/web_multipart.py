"""Multipart messages of DICOM objects, in and out, never whole in memory (RFC 2046, PS3.18 8.6.1.2)."""

from __future__ import annotations

import email.message
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cfmri_core.errors import RemoteError, ResourceError

_LONGEST_HEADER = 16_384
_BLOCK = 1 << 20


def save_parts(
    content_type: str, chunks: Iterator[bytes], folder: Path, max_bytes: int, saved: Callable[[Path], None]
) -> None:
    """Write each part of a message into a file, and pass it on once it is complete.

    A part counts as complete when the delimiter after it has come, and a message when its closing delimiter
    has: servers send such answers without a length, so that nothing else tells a whole body from half of one.

    Args:
        content_type: Header of the message, with the boundary.
        chunks: Its body.
        folder: Receives one file after another; ``saved`` must move or remove it.
        max_bytes: Largest sum of all parts.
        saved: Called with the file of each complete part.

    Raises:
        RemoteError: It is no such message, or it breaks off.
        ResourceError: It is too large.
    """
    reader = _Reader(chunks)
    delimiter = b"\r\n--" + _boundary(content_type)
    reader.copy_until(delimiter, lambda _: None)
    partial, left = folder / ".part", max_bytes
    while reader.take(2) != b"--":
        reader.copy_until(b"\r\n\r\n", _HeaderLimit())
        with partial.open("wb") as stream:
            counted = _Counted(stream.write, left)
            reader.copy_until(delimiter, counted)
        left = counted.left
        saved(partial)
    partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Message:
    """A message made of files, to be sent.

    Attributes:
        files: One part each.
        boundary: Separates them; random, so that no file can hold it.
    """

    files: Sequence[Path]
    boundary: str

    @classmethod
    def of(cls, files: Sequence[Path]) -> Message:
        """Return the message of these files."""
        return cls(files, secrets.token_hex(16))

    @property
    def headers(self) -> dict[str, str]:
        """Content-Type and Content-Length."""
        length = sum(file.stat().st_size + len(self._head) + 2 for file in self.files) + len(self._end)
        media_type = f'multipart/related; type="application/dicom"; boundary={self.boundary}'
        return {"Content-Type": media_type, "Content-Length": str(length)}

    def content(self) -> Iterator[bytes]:
        """Yield the body."""
        for file in self.files:
            yield self._head
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    yield block
            yield b"\r\n"
        yield self._end

    @property
    def _head(self) -> bytes:
        return f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()

    @property
    def _end(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode()


def _boundary(content_type: str) -> bytes:
    header = email.message.Message()
    header["Content-Type"] = content_type
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not boundary:
        raise RemoteError("The archive sent no DICOM objects.", "Check the path: Orthanc's ends in /dicom-web.")
    return boundary.encode("latin-1", "replace")


class _Reader:
    """Read a stream of chunks up to marks; a line break is put in front, for a first delimiter without one."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray(b"\r\n")

    def copy_until(self, mark: bytes, write: Callable[[bytes], object]) -> None:
        """Pass on everything before the next mark, and drop the mark."""
        while (place := self._buffer.find(mark)) < 0:
            ready = len(self._buffer) - len(mark) + 1
            if ready > 0:
                write(self._drop(ready))
            self._fill()
        write(self._drop(place))
        self._drop(len(mark))

    def take(self, count: int) -> bytes:
        """Return the next bytes, and leave them to be read again."""
        while len(self._buffer) < count:
            self._fill()
        return bytes(self._buffer[:count])

    def _drop(self, count: int) -> bytes:
        dropped = bytes(self._buffer[:count])
        del self._buffer[:count]
        return dropped

    def _fill(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise RemoteError("The archive's answer broke off in the middle.", "Try again.", retryable=True)
        self._buffer += chunk


class _Counted:
    """Pass on bytes up to a limit."""

    def __init__(self, write: Callable[[bytes], object], left: int) -> None:
        self._write = write
        self.left = left

    def __call__(self, content: bytes) -> None:
        self.left -= len(content)
        if self.left < 0:
            raise ResourceError("The archive sends more than is accepted of one series.", "Fetch it by other means.")
        self._write(content)


class _HeaderLimit:
    """Drop the header of a part, and refuse one without end."""

    def __init__(self) -> None:
        self._left = _LONGEST_HEADER

    def __call__(self, content: bytes) -> None:
        self._left -= len(content)
        if self._left < 0:
            raise RemoteError("The archive sent a damaged answer.", "Its log may say why.")
