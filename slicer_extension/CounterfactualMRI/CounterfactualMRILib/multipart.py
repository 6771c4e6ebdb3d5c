"""multipart/form-data: sent from a file without loading it, and taken apart again. Standard library only.

Source: RFC 7578 (form data), RFC 2046 section 5.1 (boundaries).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator


class UploadBody:
    """The body of one upload: a JSON field ``params`` and optionally a file, read piece by piece.

    Args:
        parameters: Text of the ``params`` field.
        filePath: File to send, or ``None``.
        fileName: Name under which it is sent. Give a random one: the real name may hold patient data.
        onSent: Called with (bytes sent, bytes in all) before each piece; may raise to stop the upload.
        field: Name of the file's field.
    """

    def __init__(
        self,
        parameters: str,
        filePath: Path | None,
        fileName: str,
        onSent: Callable[[int, int], None] | None = None,
        field: str = "file",
    ) -> None:
        boundary = uuid.uuid4().hex
        self.contentType = f"multipart/form-data; boundary={boundary}"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{parameters}\r\n'
        if filePath is not None:
            head += f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{fileName}"\r\n'
            head += "Content-Type: application/octet-stream\r\n\r\n"
        self._head = head.encode()
        self._tail = ("\r\n" if filePath is not None else "").encode() + f"--{boundary}--\r\n".encode()
        self._filePath = filePath
        self._onSent = onSent
        self._length = len(self._head) + len(self._tail) + (filePath.stat().st_size if filePath is not None else 0)
        self._sent = 0
        self._pieces = self._generate()
        self._rest = b""

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.read(65536), b"")

    def read(self, size: int = 65536) -> bytes:
        """Return at most ``size`` bytes, nothing at the end (what http.client asks of a body)."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        size = len(self._rest) if size is None or size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        self._sent += len(piece)
        if self._onSent is not None:
            self._onSent(self._sent, self._length)
        return piece

    def _generate(self) -> Iterator[bytes]:
        yield self._head
        if self._filePath is not None:
            with self._filePath.open("rb") as file:
                yield from iter(lambda: file.read(65536), b"")
        yield self._tail


@dataclass(frozen=True)
class Part:
    """One part of a multipart answer: its file name (empty for a plain field) and bytes."""

    fileName: str
    data: bytes


def parseMultipart(contentType: str, body: bytes) -> dict[str, Part]:
    """Take a multipart/form-data answer apart, by field name.

    Raises:
        ValueError: It is not one, or it is cut short.
    """
    boundary = re.search(r'boundary="?([^";,]+)"?', contentType)
    if not contentType.startswith("multipart/") or boundary is None:
        raise ValueError(f"not a multipart answer but '{contentType}'")
    delimiter = b"\r\n--" + boundary.group(1).encode()
    pieces = (b"\r\n" + body).split(delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise ValueError("the multipart answer is cut short")
    return dict(_parsePart(piece) for piece in pieces[1:-1])


def _parsePart(piece: bytes) -> tuple[str, Part]:
    header, separator, data = piece.partition(b"\r\n\r\n")
    text = header.decode("utf-8", "replace")
    name = re.search(r'[;\s]name="([^"]*)"', text)
    if not separator or name is None:
        raise ValueError("a part of the multipart answer has no name")
    fileName = re.search(r'filename="([^"]*)"', text)
    return name.group(1), Part(fileName.group(1) if fileName else "", data)
