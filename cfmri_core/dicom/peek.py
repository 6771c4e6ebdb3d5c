"""Read the few attributes that an index needs from one file: from its first kilobytes where that is safe.

pydicom builds an object per element, which is most of its time on a small image. Here the elements of a plain
little-endian image are walked by their lengths and a handful decoded. Whatever is not plain, or not exactly as
the standard has it, goes to pydicom: both ways give the same or the first gives nothing.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from cfmri_core.dicom.headers import MR_IMAGE, MR_IMAGE_CLASSES, MULTI_FRAME_CLASSES, frame_headers, header_of
from cfmri_core.dicom.parser import (
    MAX_TEXT_LENGTH,
    PIXEL_DATA,
    SYNTHETIC_DATA,
    UNDEFINED_LENGTH,
    ends_properly,
    items_of,
    parse_header,
    parser_errors,
    require_readable,
    text_of,
)

#: What is read of an image; `form_grid`, the checks of pixels and the choice of series ask for nothing else.
KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime", "Modality", "Manufacturer",
    "ManufacturerModelName", "PatientID", "ScanOptions", "SliceThickness", "RepetitionTime", "EchoTime",
    "InversionTime", "MagneticFieldStrength", "SpacingBetweenSlices", "FlipAngle", "DiffusionBValue",
    "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber", "ImagePositionPatient", "ImageOrientationPatient",
    "FrameOfReferenceUID", "TemporalPositionIdentifier", "SliceLocation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "BurnedInAnnotation", "RescaleIntercept", "RescaleSlope",
)  # fmt: skip
_MODALITY_LUT = 0x00283000
_WANTED: dict[int, tuple[str, str]] = {
    **{tag_for_keyword(keyword): (keyword, dictionary_VR(keyword)) for keyword in KEYWORDS},
    SYNTHETIC_DATA: ("SyntheticData", "CS"),
    _MODALITY_LUT: ("ModalityLUTSequence", "SQ"),
}
_IDENTIFYING = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
_SERIES_INSTANCE_UID = 0x0020000E
_TRANSFER_SYNTAX = 0x00020010

#: Bytes read at a time; the header of a small MR image fits into two or three.
_WINDOW = 8192
_MAX_DEPTH = 32
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_SHORT_VR = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
#: Character sets in which bytes below 128 are ASCII.
_ASCII_COMPATIBLE = re.compile(r"(\\?(ISO_IR (6|100|101|109|110|126|127|138|144|148|192)|ISO 2022 IR (6|100)))?")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_UID = re.compile(r"[0-9.]*")
_element_header = struct.Struct("<HH2sH").unpack_from
_length = struct.Struct("<I").unpack_from
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass(frozen=True)
class Peek:
    """What one file says, as texts by keyword.

    Attributes:
        syntax: Transfer syntax.
        frames: Per image, the attributes it has (classic names); one empty for objects that are no MR image.
        pixel_bytes: Bytes of pixel data that are there; ``None`` for none.
    """

    syntax: str
    frames: tuple[dict[str, str], ...]
    pixel_bytes: int | None


class _NotPlainError(Exception):
    """The file is one for pydicom."""


def peek_plain(path: Path) -> Peek | None:
    """Walk a plain little-endian file; ``None`` where it is not plain.

    Raises:
        OSError: It cannot be opened or read.
        DicomReadError: Not a regular file, or too large.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its other end
    try:
        status = os.fstat(descriptor)
        require_readable(path, status)
        return _Walk(descriptor, status.st_size).run()
    except (_NotPlainError, struct.error, UnicodeDecodeError):
        return None
    finally:
        os.close(descriptor)


def peek_parsed(path: Path) -> Peek:
    """Read with pydicom.

    Raises:
        DicomReadError: Not DICOM, or damaged.
    """
    with parser_errors(path):
        dataset, pixel_bytes = parse_header(path)
        syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
        if text_of(dataset, "SOPClassUID") not in MR_IMAGE_CLASSES:
            return Peek(syntax, (_texts(dataset, _IDENTIFYING),), None)
        frames = frame_headers(header_of(dataset))
        return Peek(syntax, tuple(_texts(frame, KEYWORDS) for frame in frames), pixel_bytes)


def _texts(header: Dataset, keywords: tuple[str, ...]) -> dict[str, str]:
    found = {keyword: text for keyword in keywords if (text := text_of(header, keyword)) is not None}
    if keywords is KEYWORDS and SYNTHETIC_DATA in header:
        found["SyntheticData"] = str(header[SYNTHETIC_DATA].value).strip()
    if keywords is KEYWORDS and "ModalityLUTSequence" in header:
        found["ModalityLUTSequence"] = str(len(items_of(header, "ModalityLUTSequence")))
    return found


class _Walk:
    """One walk over the elements of an open file."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self._start, self._window = 0, os.pread(descriptor, _WINDOW, 0)
        self._is_explicit = True

    def run(self) -> Peek:
        if self._window[128:132] != b"DICM":
            raise _NotPlainError
        syntax, position = self._meta()
        if syntax in (_BIG_ENDIAN, _DEFLATED) or not syntax.startswith("1.2.840.10008.1.2"):
            raise _NotPlainError
        self._is_explicit = syntax != _IMPLICIT
        texts, pixels = self._dataset(position)
        if _ASCII_COMPATIBLE.fullmatch(texts.get("SpecificCharacterSet", "")) is None:
            raise _NotPlainError
        kind = texts.get("SOPClassUID")
        if kind in MULTI_FRAME_CLASSES or kind is None:
            raise _NotPlainError
        if kind != MR_IMAGE:
            return Peek(syntax, ({name: texts[name] for name in _IDENTIFYING if name in texts},), None)
        return Peek(syntax, (texts,), self._pixel_bytes(pixels, syntax in (_IMPLICIT, _EXPLICIT)))

    def _meta(self) -> tuple[str, int]:
        """Return the transfer syntax, and where the data set begins."""
        tag, _, length, position = self._element(132)
        if tag != 0x00020000 or length != 4:
            raise _NotPlainError
        end = position + 4 + _length(self._bytes(position, 4))[0]
        position, syntax, last = position + 4, "", tag
        while position < end:
            tag, vr, length, start = self._element(position)
            if tag >> 16 != 2 or tag <= last:
                raise _NotPlainError
            if tag == _TRANSFER_SYNTAX:
                syntax = _decoded(self._bytes(start, length), vr.decode()) or ""
            position, last = start + length, tag
        if position != end:
            raise _NotPlainError
        return syntax, end

    def _dataset(self, position: int) -> tuple[dict[str, str], tuple[int, int]]:
        """Return the texts that were asked for, and where the pixel data begin and how long they are.

        For an object that is no MR image the walk ends with the series' identifier.
        """
        texts: dict[str, str] = {}
        last = 0
        is_image = True
        while True:
            tag, vr, length, start = self._element(position)
            if tag <= last or tag >> 16 in (0xFFFE, 2):
                raise _NotPlainError
            last = tag
            if tag == PIXEL_DATA and vr in (b"", b"OB", b"OW"):
                return texts, (start, length)
            if not is_image and tag > _SERIES_INSTANCE_UID and "SeriesInstanceUID" in texts:
                return texts, (start, length)
            if tag >= PIXEL_DATA or start + (0 if length == UNDEFINED_LENGTH else length) > self._size:
                raise _NotPlainError
            if tag in _WANTED:
                self._keep(texts, tag, vr, start, length)
                is_image = texts.get("SOPClassUID", MR_IMAGE) == MR_IMAGE
            position = self._after_sequence(start, vr) if length == UNDEFINED_LENGTH else start + length

    def _keep(self, texts: dict[str, str], tag: int, vr: bytes, start: int, length: int) -> None:
        keyword, expected = _WANTED[tag]
        if (self._is_explicit and vr != expected.encode()) or expected == "SQ":
            raise _NotPlainError
        if length > MAX_TEXT_LENGTH:
            raise _NotPlainError
        text = _decoded(self._bytes(start, length), expected)
        if text:
            texts[keyword] = text

    def _element(self, position: int) -> tuple[int, bytes, int, int]:
        """Return tag, VR (empty if implicit), length and the position of the value of the element there."""
        at = position - self._start
        if at < 0 or at + 12 > len(self._window):
            self._window, self._start, at = os.pread(self._descriptor, _WINDOW, position), position, 0
        group, number, vr, length = _element_header(self._window, at)
        tag = group << 16 | number
        if group == 0xFFFE or not self._is_explicit:
            if not self._is_explicit and group != 0xFFFE and vr.isalpha() and vr.isupper():
                raise _NotPlainError  # explicit after all? pydicom finds out
            return tag, b"", _length(self._window, at + 4)[0], position + 8
        if vr in _SHORT_VR:
            return tag, vr, length, position + 8
        if vr not in _LONG_VR:
            raise _NotPlainError
        return tag, vr, _length(self._window, at + 8)[0], position + 12

    def _bytes(self, position: int, count: int) -> bytes:
        at = position - self._start
        if at >= 0 and at + count <= len(self._window):
            return self._window[at : at + count]
        value = os.pread(self._descriptor, count, position)
        if len(value) < count:
            raise _NotPlainError
        return value

    def _after_sequence(self, position: int, vr: bytes) -> int:
        """Return where a sequence of undefined length ends, every element in it walked."""
        if self._is_explicit and vr != b"SQ":
            raise _NotPlainError
        ends: list[int | None] = [None]  # of this sequence, an open item in it, a sequence in that, and so on
        while ends:
            if ends[-1] is not None and position >= ends[-1]:
                if position > ends[-1]:
                    raise _NotPlainError
                ends.pop()
                continue
            position = self._step_inside(ends, position)
            if position > self._size or len(ends) > _MAX_DEPTH:
                raise _NotPlainError
        return position

    def _step_inside(self, ends: list[int | None], position: int) -> int:
        tag, vr, length, start = self._element(position)
        is_in_item = len(ends) % 2 == 0
        if tag in (_ITEM_END, _SEQUENCE_END):
            if tag != (_ITEM_END if is_in_item else _SEQUENCE_END) or length or ends[-1] is not None:
                raise _NotPlainError
            ends.pop()
            return start
        if is_in_item == (tag == _ITEM):
            raise _NotPlainError
        if not is_in_item:
            ends.append(None if length == UNDEFINED_LENGTH else start + length)
            return start
        if length == UNDEFINED_LENGTH:
            if self._is_explicit and vr != b"SQ":
                raise _NotPlainError
            ends.append(None)
            return start
        return start + length

    def _pixel_bytes(self, pixels: tuple[int, int], is_native: bool) -> int | None:
        start, length = pixels
        if is_native != (length != UNDEFINED_LENGTH):
            raise _NotPlainError
        if is_native:
            return length if length <= self._size - start else None
        if not ends_properly(self._descriptor):
            raise _NotPlainError
        return self._size - start


def _decoded(value: bytes, vr: str) -> str | None:
    """Decode a value as `text_of` gives it; raise where the two might differ."""
    if vr == "US":
        return "\\".join(map(str, struct.unpack(f"<{len(value) // 2}H", value))) if value else None
    if vr == "FD":
        return "\\".join(map(str, struct.unpack(f"<{len(value) // 8}d", value))) if value else None
    text = value.decode("ascii").rstrip("\0 ")
    if not text.isprintable():
        raise _NotPlainError
    pattern = {"DS": _DECIMAL, "IS": _INTEGER, "UI": _UID}.get(vr)
    parts = [part.strip() for part in text.split("\\")]
    if text and pattern and not all(pattern.fullmatch(part) for part in parts):
        raise _NotPlainError
    return "\\".join(parts).strip() or None
