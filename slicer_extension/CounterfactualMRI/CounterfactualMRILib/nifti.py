"""NIfTI-1 images with numpy alone, so that worker threads can read and write them. No Slicer, no VTK.

Slicer's own readers belong to the main thread and would hold it up for as long as a volume takes.

Source: nifti1.h of the NIfTI-1.1 standard: a header of 348 bytes, voxels from ``vox_offset`` on, first axis fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Tuple

from CounterfactualMRILib.problems import Problem

if TYPE_CHECKING:
    import numpy as np

#: Rows of a 4x4 matrix from voxel indices (i, j, k) to millimetres, right-anterior-superior.
Matrix = Tuple[Tuple[float, ...], ...]

#: More voxels are refused before anything is allocated for them.
MAX_VOXELS = 2**29
_HEADER_BYTES, _VOXELS_AT = 348, 352
#: NIfTI's code of each kind of number, by numpy's name without byte order.
_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}
_NAMES = {code: name for name, code in _CODES.items()}
_GZIP_LEVEL = 1


class ImageFileProblem(Problem):
    """An image file cannot be read or written."""


@dataclass(frozen=True)
class Image:
    """Voxels and where they lie.

    Attributes:
        voxels: Shape (k, j, i), as Slicer's arrays.
        ijkToRAS: Millimetres.
    """

    voxels: np.ndarray
    ijkToRAS: Matrix


def write(path: Path, image: Image) -> None:
    """Write an image, compressed if the name ends in ``.gz``; kinds of numbers that NIfTI lacks become float32.

    Raises:
        ImageFileProblem: The file cannot be written.
    """
    import numpy as np

    voxels = image.voxels
    if voxels.dtype.str[1:] not in _CODES:
        voxels = voxels.astype(np.float32)
    voxels = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("<"))
    try:
        with gzip.open(path, "wb", _GZIP_LEVEL) if path.name.endswith(".gz") else path.open("wb") as file:
            file.write(_header(voxels, image.ijkToRAS))
            file.write(memoryview(voxels).cast("B") if voxels.size else b"")
    except OSError as error:
        raise ImageFileProblem(
            "The volume could not be written for sending.", f"Is the disk of {path.parent} full? ({error.strerror})"
        ) from error


def read(path: Path) -> Image:
    """Read one 3D image; scaled numbers become float32.

    Raises:
        ImageFileProblem: No NIfTI-1 file, damaged, too large, not 3D, or without a position.
    """
    try:
        with path.open("rb") as raw:
            isCompressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if isCompressed else raw as file:
                return _read(file)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise _unreadable(type(error).__name__) from error


def _read(file: BinaryIO) -> Image:
    import numpy as np

    header = file.read(_HEADER_BYTES)
    order = "<" if header[:4] == struct.pack("<i", _HEADER_BYTES) else ">"
    if len(header) < _HEADER_BYTES or header[344:347] not in (b"n+1", b"ni1"):
        raise _unreadable("it is no NIfTI file")
    dimensions = struct.unpack_from(order + "8h", header, 40)
    shape, rest = dimensions[1:4], dimensions[4 : dimensions[0] + 1]
    if not 3 <= dimensions[0] <= 7 or min(shape) < 1 or any(length > 1 for length in rest):
        raise _unreadable("it is not one 3D image")
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise _unreadable("it is too large")
    name = _NAMES.get(struct.unpack_from(order + "h", header, 70)[0])
    if name is None:
        raise _unreadable("its kind of numbers is not supported")
    offset, slope, shift = struct.unpack_from(order + "3f", header, 108)
    file.read(max(_VOXELS_AT, int(offset)) - _HEADER_BYTES)
    voxels = np.empty(shape[::-1], dtype=np.dtype(order + name))
    _fill(memoryview(voxels).cast("B"), file)
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if math.isfinite(slope) and math.isfinite(shift) and slope != 0.0 and (slope, shift) != (1.0, 0.0):
        voxels = voxels.astype(np.float32) * np.float32(slope) + np.float32(shift)
    return Image(voxels, _matrix(header, order))


def _fill(target: memoryview, file: BinaryIO) -> None:
    at = 0
    while at < len(target):
        count = file.readinto(target[at : at + 2**20])
        if not count:
            raise _unreadable("it is cut short")
        at += count


def _header(voxels: np.ndarray, matrix: Matrix) -> bytes:
    k, j, i = voxels.shape
    header = bytearray(_VOXELS_AT)
    spacing = [sum(matrix[row][column] ** 2 for row in range(3)) ** 0.5 for column in range(3)]
    struct.pack_into("<i", header, 0, _HEADER_BYTES)
    struct.pack_into("<8h", header, 40, 3, i, j, k, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, _CODES[voxels.dtype.str[1:]], 8 * voxels.dtype.itemsize)
    struct.pack_into("<8f", header, 76, 1.0, *spacing, 0.0, 0.0, 0.0, 0.0)
    struct.pack_into("<3f", header, 108, _VOXELS_AT, 1.0, 0.0)
    struct.pack_into("<B", header, 123, 2)  # millimetres
    struct.pack_into("<h", header, 254, 1)  # the rows below are scanner coordinates
    for row in range(3):
        struct.pack_into("<4f", header, 280 + 16 * row, *matrix[row])
    struct.pack_into("4s", header, 344, b"n+1")
    return bytes(header)


def _matrix(header: bytes, order: str) -> Matrix:
    qform, sform = struct.unpack_from(order + "2h", header, 252)
    if sform > 0:
        rows = [struct.unpack_from(order + "4f", header, 280 + 16 * row) for row in range(3)]
    elif qform > 0:
        rows = _rowsOfQuaternion(header, order)
    else:
        raise _unreadable("it does not say where the voxels lie")
    return (*(tuple(row) for row in rows), (0.0, 0.0, 0.0, 1.0))


def _rowsOfQuaternion(header: bytes, order: str) -> list[tuple[float, ...]]:
    """Return the rows of method 2 of nifti1.h: a rotation as quaternion, spacings, and a sign of the third axis."""
    flip, *spacing = struct.unpack_from(order + "4f", header, 76)
    b, c, d, *origin = struct.unpack_from(order + "6f", header, 256)
    a = max(0.0, 1.0 - b * b - c * c - d * d) ** 0.5
    rotation = (
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c),
    )
    signs = (1.0, 1.0, -1.0 if flip < 0 else 1.0)
    return [
        (*(value * step * sign for value, step, sign in zip(row, spacing, signs)), shift)
        for row, shift in zip(rotation, origin)
    ]


def _unreadable(why: str) -> ImageFileProblem:
    return ImageFileProblem(
        f"The server's image cannot be read: {why}.", "Repeat; if it stays, report it with the server's log."
    )
