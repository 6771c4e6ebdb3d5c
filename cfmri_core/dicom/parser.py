"""Parse one DICOM file; whatever the parser raises becomes `DicomReadError`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cfmri_core.errors import CfmriError, DicomReadError

#: Larger files are refused before parsing, in bytes; the largest MR objects in archives are below 1 GiB.
MAX_FILE_BYTES = 2 * 1024**3
#: Longer header texts are junk, in characters.
MAX_TEXT_LENGTH = 1024
DEFLATED_TRANSFER_SYNTAX = b"1.2.840.10008.1.2.1.99"

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
        raise DicomReadError(f"{path}: cannot be read ({error.strerror or type(error).__name__}).") from None
    except MemoryError:
        message = f"{path}: asks for more memory than there is."
        raise DicomReadError(message, "The file is damaged or too large.") from None
    except Exception as error:
        raise DicomReadError(
            f"{path}: damaged or unsupported DICOM ({type(error).__name__}).", "Export the series again."
        ) from None


def parse_file(path: Path) -> Dataset:
    """Read one DICOM file, pixel data undecoded.

    The bytes are read first and parsed from memory: an element that claims to be longer than the file
    then costs nothing.

    Raises:
        DicomReadError: Not DICOM, damaged, or too large.
    """
    with parser_errors(path):
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DicomReadError(f"{path}: {size} bytes are more than the {MAX_FILE_BYTES} accepted.")
        content = path.read_bytes()
        if content[128:132] != b"DICM":
            raise DicomReadError(f"{path}: not a DICOM file.", "Give a DICOM file or folder, or a .nii.gz.")
        if DEFLATED_TRANSFER_SYNTAX in content[:2048]:  # would be inflated whole, without any limit
            raise DicomReadError(f"{path}: the deflated transfer syntax is not supported.", "Export it uncompressed.")
        dataset = pydicom.dcmread(BytesIO(content))
        if "SOPClassUID" not in dataset:
            raise DicomReadError(f"{path}: damaged DICOM (it does not say what it is).", "Export the series again.")
        return dataset


def is_dicom_file(path: Path) -> bool:
    """Whether a regular file carries the DICOM prefix."""
    try:
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
    text = "".join(character for character in text if character.isprintable()).strip()
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


def _number_text(value: object) -> str:
    original = getattr(value, "original_string", None)
    return original.strip() if isinstance(original, str) else str(value).strip()
