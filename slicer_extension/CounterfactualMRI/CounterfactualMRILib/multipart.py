"""multipart/form-data: sent from a file without loading it, and taken apart as it comes in. Standard library only.

Source: RFC 7578 (form data), RFC 2046 section 5.1 (boundaries).
"""

from __future__ import annotations

import io
import re
import uuid
from pathlib import Path
from typing import BinaryIO, Callable, Iterable, Iterator, Mapping


class UploadBody:
    """The body of one upload: a JSON field ``params`` and files, read piece by piece.

    A file is sent under a random name: its own may hold patient data.

    Args:
        parameters: Text of the ``params`` field.
        files: NIfTI files to send, each by the name of its field.
        onSent: Called with (bytes sent, bytes in all) before each piece; may raise to stop the upload.
    """

    def __init__(
        self, parameters: str, files: Mapping[str, Path], onSent: Callable[[int, int], None] | None = None
    ) -> None:
        boundary = uuid.uuid4().hex
        self.contentType = f"multipart/form-data; boundary={boundary}"
        self._parts: list[bytes | Path] = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{parameters}\r\n'.encode()
        ]
        for field, path in files.items():
            name = uuid.uuid4().hex + (".nii.gz" if path.suffix == ".gz" else ".nii")
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            self._parts += [f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(), path, b"\r\n"]
        self._parts.append(f"--{boundary}--\r\n".encode())
        self._onSent = onSent
        self._length = sum(part.stat().st_size if isinstance(part, Path) else len(part) for part in self._parts)
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
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            with part.open("rb") as file:
                yield from iter(lambda file=file: file.read(65536), b"")


def readMultipart(contentType: str, pieces: Iterable[bytes], sink: Callable[[str], BinaryIO]) -> None:
    """Take a multipart/form-data answer apart while it comes in, each part into a file of its own.

    A whole volume is never one object in memory: copying it would hold up every other thread of Python.

    Args:
        contentType: Of the answer.
        pieces: Its body, of any lengths.
        sink: Opens a file for the part of that name; it is closed when the part has ended.

    Raises:
        ValueError: It is not one, or it is cut short.
    """
    boundary = re.search(r'boundary="?([^";,]+)"?', contentType)
    if not contentType.startswith("multipart/") or boundary is None:
        raise ValueError(f"not a multipart answer but '{contentType}'")
    source = _Source(pieces)
    delimiter = b"\r\n--" + boundary.group(1).encode()
    source.copyUntil(delimiter, None)
    while not source.startsWith(b"--"):
        head = io.BytesIO()
        source.copyUntil(b"\r\n\r\n", head)
        name = re.search(r'[;\s]name="([^"]*)"', head.getvalue().decode("utf-8", "replace"))
        if name is None:
            raise ValueError("a part of the multipart answer has no name")
        with sink(name.group(1)) as file:
            source.copyUntil(delimiter, file)


class _Source:
    """A body as it comes in, with what was read ahead."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._ahead = b"\r\n"  # the first delimiter has no line before it

    def startsWith(self, text: bytes) -> bool:
        """Tell whether the text comes next."""
        while len(self._ahead) < len(text):
            self._readOn()
        return self._ahead.startswith(text)

    def copyUntil(self, end: bytes, target: BinaryIO | None) -> None:
        """Copy what comes before ``end`` into a file, or nowhere; ``end`` itself is skipped."""
        while (at := self._ahead.find(end)) < 0:
            keep = len(self._ahead) - len(end) + 1  # the rest may be the beginning of the end
            if keep > 0:
                if target is not None:
                    target.write(self._ahead[:keep])
                self._ahead = self._ahead[keep:]
            self._readOn()
        if target is not None:
            target.write(self._ahead[:at])
        self._ahead = self._ahead[at + len(end) :]

    def _readOn(self) -> None:
        try:
            self._ahead += next(self._pieces)
        except StopIteration:
            raise ValueError("the multipart answer is cut short") from None
