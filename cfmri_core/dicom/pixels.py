"""Stored pixel values of one DICOM image, checked before they are decoded."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_pixel_data_frame

from cfmri_core.dicom.headers import LOSSY_TRANSFER_SYNTAXES, MR_IMAGE
from cfmri_core.dicom.parser import UNDEFINED_LENGTH, integer_of, number_of, text_of
from cfmri_core.errors import DicomReadError, UnsupportedImageError

#: More voxels in one volume are refused: 2 GiB as float32.
MAX_VOXELS = 2**29
#: Uncompressed transfer syntaxes: implicit and explicit little endian, explicit big endian.
NATIVE_TRANSFER_SYNTAXES = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
RLE_TRANSFER_SYNTAX = "1.2.840.10008.1.2.5"
#: JPEG baseline, extended, lossless (two), JPEG-LS lossless and near-lossless, JPEG 2000 lossless and lossy.
JPEG_TRANSFER_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91))
TRANSFER_SYNTAXES = NATIVE_TRANSFER_SYNTAXES | JPEG_TRANSFER_SYNTAXES | {RLE_TRANSFER_SYNTAX}

#: Compressed pixels may grow to this many bytes, or by this factor: a black slice compresses well, a bomb better.
MAX_EXPANDED_BYTES = 2**24
MAX_EXPANSION = 1000

#: Encapsulated formats carry a size of their own: JPEG's start-of-frame markers (lossless and LS among them).
JPEG_START_OF_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})


def require_pixels(dataset: Dataset) -> None:
    """Check that an image holds pixels this package can use, without decoding them.

    Raises:
        DicomReadError: No pixel data, or fewer bytes than the size asks for.
        UnsupportedImageError: A mosaic, several frames in a single-frame object, colour, an odd bit depth.
    """
    syntax = str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ""))
    require_pixel_format(dataset, syntax, _pixel_bytes(dataset))


def require_pixel_format(header: Dataset | Mapping[str, str], syntax: str, pixel_bytes: int | None) -> None:
    """Check by header and size alone that an image's pixels can be used.

    Args:
        header: Attributes of the image, or their texts by keyword.
        syntax: Transfer syntax.
        pixel_bytes: Bytes of pixel data, ``None`` for none or if they are cut short.

    Raises:
        DicomReadError: As `require_pixels`.
    """
    if pixel_bytes is None:
        raise DicomReadError("The image has no pixel data: the file is cut short or holds only a header.")
    if syntax and syntax not in TRANSFER_SYNTAXES:
        raise UnsupportedImageError("The transfer syntax is not supported.", "Export uncompressed, JPEG or RLE.")
    if "MOSAIC" in (text_of(header, "ImageType") or ""):
        raise UnsupportedImageError(
            "A mosaic: many slices tiled into one image.", "Convert it with dcm2niix and give the .nii.gz."
        )
    if "ModalityLUTSequence" in header:
        raise UnsupportedImageError("Intensities are given by a modality lookup table, which is not supported.")
    colour = text_of(header, "PhotometricInterpretation") or "absent"
    if colour not in ("MONOCHROME1", "MONOCHROME2") or integer_of(header, "SamplesPerPixel") != 1:
        raise UnsupportedImageError("Not a monochrome image: only MONOCHROME1 and MONOCHROME2 are supported.")
    _require_layout(header, syntax, pixel_bytes)


def stored_values(dataset: Dataset) -> NDArray[np.generic]:
    """Decode the stored values of an image, before rescaling.

    Values are those of the low BitsStored bits, signed where PixelRepresentation says so; a lossy decoder gives
    nothing else.

    Returns:
        Values, int8 to uint16, shape ``(frames, rows, columns)``.

    Raises:
        DicomReadError: See `require_pixels`; or the decoded size is another one.
    """
    require_pixels(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in NATIVE_TRANSFER_SYNTAXES and syntax != RLE_TRANSFER_SYNTAX:
        _require_same_size_inside(dataset)
        dataset.convert_pixel_data("pylibjpeg")
    frames, rows, columns = _layout(dataset)
    values: NDArray[np.generic] = dataset.pixel_array
    if values.size != frames * rows * columns:
        raise DicomReadError("The decoded image has another size than its header says.")
    values = values.reshape(frames, rows, columns)
    return values if syntax in LOSSY_TRANSFER_SYNTAXES else _without_spare_bits(dataset, values)


def rescale_of(header: Dataset) -> tuple[float, float]:
    """Return slope and intercept from stored values to intensities; 1 and 0 if the header has none.

    Raises:
        DicomReadError: They are not finite, or the slope is zero.
    """
    slope = number_of(header, "RescaleSlope")
    intercept = number_of(header, "RescaleIntercept")
    slope, intercept = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise DicomReadError("RescaleSlope or RescaleIntercept is nonsense.")
    return slope, intercept


def _pixel_bytes(dataset: Dataset) -> int | None:
    """Return the size of the pixel data, ``None`` if there are none or fewer than the file said."""
    if "PixelData" not in dataset:
        return None
    said = getattr(dataset.get_item("PixelData"), "length", None)  # as it stands in a file that was just parsed
    there = len(dataset.PixelData)
    return there if said in (None, UNDEFINED_LENGTH) or said <= there else None


def _layout(dataset: Dataset | Mapping[str, str]) -> tuple[int, int, int]:
    frames = integer_of(dataset, "NumberOfFrames") or 1
    return frames, integer_of(dataset, "Rows") or 0, integer_of(dataset, "Columns") or 0


def _require_layout(dataset: Dataset | Mapping[str, str], syntax: str, pixel_bytes: int) -> None:
    frames, rows, columns = _layout(dataset)
    voxels = frames * rows * columns
    if min(frames, rows, columns) < 1 or voxels > MAX_VOXELS:
        raise DicomReadError(f"An image of {columns}x{rows}x{frames} voxels is not accepted (1 to {MAX_VOXELS}).")
    if frames > 1 and text_of(dataset, "SOPClassUID") == MR_IMAGE:  # has one position for all of them
        raise UnsupportedImageError(
            f"A single-frame MR image that holds {frames} frames.", "Export one file per slice, or enhanced MR."
        )
    allocated, stored = integer_of(dataset, "BitsAllocated"), integer_of(dataset, "BitsStored")
    high_bit = integer_of(dataset, "HighBit")
    if allocated not in (8, 16) or stored is None or not 1 <= stored <= allocated or high_bit != stored - 1:
        raise UnsupportedImageError("Unsupported bit depth: 8 or 16 bits allocated with the value in the low bits are.")
    if integer_of(dataset, "PixelRepresentation") not in (0, 1):
        raise DicomReadError("PixelRepresentation is absent or nonsense.")
    if syntax in NATIVE_TRANSFER_SYNTAXES:
        spare = pixel_bytes - voxels * allocated // 8
        if not 0 <= spare < max(2, columns * allocated // 8):  # some writers pad, but never by a row
            raise DicomReadError("The pixel data are cut short or too long for the size of the image.")
    elif voxels * allocated // 8 > max(MAX_EXPANDED_BYTES, MAX_EXPANSION * pixel_bytes):
        raise DicomReadError(f"{pixel_bytes} compressed bytes cannot hold an image of {columns}x{rows}x{frames}.")


def _require_same_size_inside(dataset: Dataset) -> None:
    """Compare the size in each compressed frame with the header: decoders allocate what the frame asks for."""
    frames, rows, columns = _layout(dataset)
    for frame in generate_pixel_data_frame(dataset.PixelData, frames):
        if codestream_size(frame) != (rows, columns):
            raise DicomReadError("A compressed frame has another size than the header says.")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns that a JPEG, JPEG-LS or JPEG 2000 frame declares, or ``None``."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 256)  # JPEG 2000: start of codestream, then size
    if start >= 0:
        width, height, left, top = struct.unpack_from(">4I", frame, start + 8)
        return height - top, width - left
    position = 2
    while position + 9 <= len(frame) and frame[:2] == b"\xff\xd8" and frame[position] == 0xFF:
        if frame[position + 1] in JPEG_START_OF_FRAME:
            rows, columns = struct.unpack_from(">2H", frame, position + 5)
            return rows, columns
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0]
    return None


def _without_spare_bits(dataset: Dataset, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Clear the bits above BitsStored, where older scanners keep overlays, and extend the sign."""
    spare = int(dataset.BitsAllocated) - int(dataset.BitsStored)
    return (values << spare) >> spare if spare else values  # type: ignore[operator]
