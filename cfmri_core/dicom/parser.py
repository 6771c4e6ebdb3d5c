"""Parse one DICOM file; whatever the parser raises becomes `DicomReadError`."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cfmri_core.errors import CfmriError, DicomReadError, UnreadableFileError, UnsupportedImageError

#: Larger files are refused before parsing, in bytes; the largest MR objects in archives are below 1 GiB.
MAX_FILE_BYTES = 2 * 1024**3
#: Longer header texts are junk, in characters.
MAX_TEXT_LENGTH = 1024
#: Header elements larger than this are passed over when only headers are read, in bytes.
MAX_HEADER_ELEMENT_BYTES = 64 * 1024**2
PIXEL_DATA = 0x7FE00010
#: SyntheticData, by number: pydicom knows the keyword only from version 3.
SYNTHETIC_DATA = 0x0008001C
UNDEFINED_LENGTH = 0xFFFFFFFF
SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"

# pydicom's warnings and log lines quote values, which may be a patient's.
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def parser_errors(path: Path) -> Iterator[None]:
    """Turn anything raised while parsing into a `DicomReadError` naming the path and no header value.

    pydicom lets at least eight exception types escape on damaged files, some only when an attribute is
    first looked at, so this wraps every reading of a file from outside.
    """
    try:
        yield
    except CfmriError:
        raise
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read ({error.strerror or type(error).__name__}).") from None
    except MemoryError:
        message = f"{path}: asks for more memory than there is."
        raise UnreadableFileError(message, "The file is damaged or too large.") from None
    except Exception as error:
        raise DicomReadError(
            f"{path}: damaged or unsupported DICOM ({type(error).__name__}).", "Export the series again."
        ) from None


def parse_file(path: Path) -> Dataset:
    """Read one DICOM file whole, pixel data undecoded.

    Raises:
        DicomReadError: Not DICOM, damaged, or too large.
    """
    with parser_errors(path), _opened(path) as stream:
        return _require_class(path, pydicom.dcmread(stream))


def parse_header(path: Path) -> tuple[Dataset, int | None]:
    """Read one DICOM file up to its pixel data.

    Returns:
        The header, and how many bytes of pixel data there are; ``None`` if none, or if they are cut short.

    Raises:
        DicomReadError: Not DICOM, damaged, or too large.
    """
    with parser_errors(path), _opened(path) as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, defer_size=MAX_HEADER_ELEMENT_BYTES)
        return _require_class(path, dataset), _pixel_bytes(stream, dataset)


def require_readable(path: Path, status: os.stat_result) -> None:
    """Check that a path is a regular file of bearable size: a pipe never ends, nor does a device.

    Raises:
        DicomReadError: It is not.
    """
    if not stat.S_ISREG(status.st_mode):
        raise DicomReadError(f"{path}: not a regular file.", "Give a DICOM file or folder, or a .nii.gz.")
    if status.st_size > MAX_FILE_BYTES:
        raise DicomReadError(f"{path}: {status.st_size} bytes are more than the {MAX_FILE_BYTES} accepted.")


def is_dicom_file(path: Path) -> bool:
    """Whether a regular file carries the DICOM prefix."""
    try:
        if not path.is_file():  # to open a pipe is to wait for its other end
            return False
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def text_of(dataset: Dataset, keyword: str) -> str | None:
    """Return an attribute as text, several values joined by backslashes; ``None`` if absent, empty or junk."""
    try:
        value = dataset.get(keyword)
    except Exception:  # conversion of a damaged element raises anything; the attribute then says nothing
        return None
    if value is None or isinstance(value, (bytes, Dataset)):
        return None
    parts = value if isinstance(value, (MultiValue, list, tuple)) else [value]
    text = "\\".join(_number_text(part) for part in parts if part is not None)
    text = (text if text.isprintable() else "".join(filter(str.isprintable, text))).strip()
    return text if 0 < len(text) <= MAX_TEXT_LENGTH else None


def numbers_of(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return an attribute as numbers; empty if absent, empty or not numeric."""
    text = text_of(dataset, keyword)
    try:
        return tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return ()


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """Return the first number of an attribute, or ``None``."""
    numbers = numbers_of(dataset, keyword)
    return numbers[0] if numbers else None


def integer_of(dataset: Dataset, keyword: str) -> int | None:
    """Return the first number of an attribute if it is whole, or ``None``."""
    number = number_of(dataset, keyword)
    return int(number) if number is not None and number.is_integer() else None


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; empty if it is absent or damaged."""
    try:
        value = dataset.get(keyword)
        return [item for item in value if isinstance(item, Dataset)] if value else []
    except Exception:  # as in `text_of`
        return []


class _BoundedReader(BufferedReader):
    """A file of which no read asks for more than there is, as Python allocates what is asked for first.

    Nor is it ever read to its end at once: pydicom does that only to inflate the deflated transfer syntax, whole and
    without any limit. It decides on that by the file meta as it reads it, so any other look at them could be evaded.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            message = f"{self.name}: the deflated transfer syntax is not supported."
            raise UnsupportedImageError(message, "Export it uncompressed.")
        if size > 4096:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


def _opened(path: Path) -> _BoundedReader:
    """Open what can be a DICOM file, at its start."""
    require_readable(path, path.stat())
    stream = _BoundedReader(FileIO(str(path)))  # pydicom puts the name into texts
    if stream.peek(132)[128:132] != b"DICM":
        stream.close()
        raise DicomReadError(f"{path}: not a DICOM file.", "Give a DICOM file or folder, or a .nii.gz.")
    return stream


def _require_class(path: Path, dataset: Dataset) -> Dataset:
    if "SOPClassUID" not in dataset:
        raise DicomReadError(f"{path}: damaged DICOM (it does not say what it is).", "Export the series again.")
    return dataset


def _pixel_bytes(stream: BufferedReader, dataset: Dataset) -> int | None:
    """Measure the pixel data that a stream stands before."""
    there = os.fstat(stream.fileno()).st_size - stream.tell()
    start = stream.read(12)
    order: Literal["little", "big"] = "little" if dataset.is_little_endian else "big"
    tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)
    if len(start) < 8 or tag != PIXEL_DATA:
        return None
    has_long_header = not dataset.is_implicit_VR and start[4:6] in (b"OB", b"OW")
    there -= 12 if has_long_header else 8
    length = int.from_bytes(start[8:12] if has_long_header else start[4:8], order)
    if length != UNDEFINED_LENGTH:
        return length if length <= there else None
    return there if ends_properly(stream.fileno()) else None


def ends_properly(file_descriptor: int) -> bool:
    """Whether a file with compressed pixels ends with their delimiter, padding aside."""
    size = os.fstat(file_descriptor).st_size
    return SEQUENCE_DELIMITER in os.pread(file_descriptor, 4096, max(0, size - 4096))


def _number_text(value: object) -> str:
    original = getattr(value, "original_string", None)
    return original.strip() if isinstance(original, str) else str(value).strip()
