"""A museum of bad files, all made here: what archives, broken transfers and attackers leave behind."""

from __future__ import annotations

import gzip
import io
import locale
import os
import random
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK
from phantoms import affine_of, distinct_voxels, save, set_pixels, slice_dataset, write_enhanced
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_pixel_data_frame
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

VOXELS, AFFINE = distinct_voxels(), affine_of(np.eye(3))
LONG = b"\xff\xff\xff\xff"


def whole(folder: Path) -> bytes:
    """Return a good file."""
    return save(folder / "whole", slice_dataset(VOXELS, AFFINE, 0)).read_bytes()


def with_bytes(content: bytes, before: bytes, after: bytes) -> bytes:
    """Exchange bytes that must be there."""
    assert before in content
    return content.replace(before, after, 1)


def broken(good: bytes) -> dict[str, bytes]:
    """Return files that must each be refused, by what is wrong with them."""
    rows = b"\x28\x00\x10\x00US\x02\x00" + VOXELS.shape[1].to_bytes(2, "little")
    pixels = b"\xe0\x7f\x10\x00OW\x00\x00"
    start = good.index(pixels)
    name = b"\x10\x00\x10\x00PN"
    nest = b"\x08\x00\x40\x11SQ\x00\x00" + LONG + b"\xfe\xff\x00\xe0" + LONG
    zeros = bytes(8 * 1024**2)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("IM1.dcm", zeros)
    deflated = with_bytes(good, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    return {
        "empty": b"",
        "text": b"this is no DICOM\n" * 50,
        "preamble only": bytes(128) + b"DICM",
        "header cut short": good[: start // 2],
        "pixels cut short": good[:-10],
        "no pixels": good[:start],
        "pixel length lies": good[: start + 8] + (2**31).to_bytes(4, "little") + good[start + 12 :],
        "pixels of undefined length": good[: start + 8] + LONG + good[start + 12 :],
        "rows as sequence": with_bytes(good, rows[:6], rows[:4] + b"SQ"),
        "rows overflow": with_bytes(good, rows, rows[:-2] + b"\xff\xff"),
        "rows as 32-bit number": with_bytes(good, rows, rows[:4] + b"UL\x04\x00" + b"\xff\xff\xff\x7f"),
        "2^31 frames": good[:start].replace(rows, b"\x28\x00\x08\x00IS\x0a\x002147483648" + rows) + good[start:],
        "no rows": with_bytes(good, rows, rows[:-2] + b"\0\0"),
        "palette": with_bytes(good, b"MONOCHROME2 ", b"PALETTE COL "),
        "nested without end": good[: good.index(name)] + nest * 20_000,
        "deflated": deflated,
        "deflated bomb": deflated[:330] + zlib.compress(zeros)[2:-4],
        "gzip": gzip.compress(zeros),
        "zip": packed.getvalue(),
        "other transfer syntax": with_bytes(good, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
    }


def compressed_bomb(folder: Path, syntax: str = RLELossless) -> Path:
    """Write an image of 16384 x 16384 voxels in a few compressed bytes."""
    dataset = slice_dataset(VOXELS, AFFINE, 0)
    dataset.Rows = dataset.Columns = 16384
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xc0" + bytes(60) if syntax == JPEGBaseline8Bit else bytes(128)])
    dataset["PixelData"].is_undefined_length = True
    path = save(folder / "bomb.dcm", dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.dcmwrite(path, dataset, write_like_original=False)
    return path


def as_syntax(path: Path, dataset: Dataset, syntax: str) -> Path:
    """Write uncompressed in another transfer syntax."""
    save(path, dataset)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.is_little_endian, dataset.is_implicit_VR = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(path, dataset, write_like_original=False)
    return path


def compressed(path: Path, dataset: Dataset, stored: np.ndarray, syntax: str) -> Path:
    """Write an image of all 16 bits, shape ``(rows, columns)``, uncompressed or in a lossless transfer syntax."""
    set_pixels(dataset, stored)
    save(path, dataset)
    if syntax == ExplicitVRLittleEndian:
        return path
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    else:
        frame = _gdcm_frame(path, "JPEG2000" if syntax == JPEG2000Lossless else "JPEG")
        dataset.PixelData, dataset.file_meta.TransferSyntaxUID = encapsulate([frame]), syntax
        dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset, write_like_original=False)
    return path


def _gdcm_frame(path: Path, compressor: str) -> bytes:
    """Return the one frame of an uncompressed file as GDCM's lossless JPEG (process 14) or JPEG 2000."""
    encoded, before = path.with_suffix(".encoded"), locale.setlocale(locale.LC_ALL)
    image = SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(encoded))
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM leaves the process with the C locale
    return next(generate_pixel_data_frame(pydicom.dcmread(encoded).PixelData, 1))


def hostile_tree(root: Path) -> None:
    """Put into a folder what is no file of bytes: loops, links to nowhere, pipes, devices, odd names."""
    (root / "loop").mkdir(parents=True)
    (root / "loop" / "back").symlink_to(root, target_is_directory=True)
    (root / "self.dcm").symlink_to(root / "self.dcm")
    (root / "nowhere.dcm").symlink_to(root / "absent")
    (root / "zero.dcm").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.dcm")
    (root / ("n" * 240 + ".dcm")).write_bytes(b"x")
    (root / os.fsdecode(b"\xff\xfe\n.dcm")).write_bytes(b"x")
    deep = root
    for _ in range(60):
        deep = deep / "deep"
    deep.mkdir(parents=True)
    (deep / "end.dcm").write_bytes(b"")


MUTATIONS = ("cut", "flip", "length bomb", "VR", "length", "dimension", "swap")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, or lie about a length, a type or a size."""
    kind = rng.choice(MUTATIONS)
    if kind == "cut":
        return content[: rng.randrange(len(content))]
    data = bytearray(content)
    for _ in range(rng.randrange(1, 9)):
        _mutate_once(data, kind, rng)
    return bytes(data)


def _mutate_once(data: bytearray, kind: str, rng: random.Random) -> None:
    place = rng.randrange(min(132, len(data) - 1), min(len(data), 4000))
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "length bomb":
        data[place : place + 4] = LONG
    elif kind == "VR":
        data[place : place + 2] = rng.choice([b"SQ", b"UN", b"FD", b"DS", b"US", b"UL", b"OB", b"??"])
    elif kind == "length":
        data[place : place + 4] = rng.randrange(2**32).to_bytes(4, "little")
    elif kind == "dimension":
        at = data.find(rng.choice([b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US", b"\x28\x00\x00\x01US"]))
        data[at + 8 : at + 10] = rng.randrange(2**16).to_bytes(2, "little")
    else:
        other = rng.randrange(min(132, len(data) - 1), min(len(data), 4000))
        data[place : place + 8], data[other : other + 8] = data[other : other + 8], data[place : place + 8]


def seeds(folder: Path) -> list[bytes]:
    """Return twelve good files of different make."""
    text = Dataset()
    text.CodeValue, text.CodeMeaning = "1", "a"
    nested = Dataset()
    nested.PurposeOfReferenceCodeSequence = [text]
    sequences = {"ReferencedImageSequence": [nested, nested], "ProcedureCodeSequence": [text]}
    made: list[Callable[[Path], Path]] = [
        lambda path: save(path, slice_dataset(VOXELS, AFFINE, 0)),
        lambda path: save(path, slice_dataset(VOXELS, AFFINE, 1, sequences)),
        lambda path: save(path, _open_ended(slice_dataset(VOXELS, AFFINE, 1, sequences))),
        lambda path: as_syntax(path, slice_dataset(VOXELS, AFFINE, 2), ImplicitVRLittleEndian),
        lambda path: as_syntax(path, _open_ended(slice_dataset(VOXELS, AFFINE, 2, sequences)), ImplicitVRLittleEndian),
        lambda path: as_syntax(path, slice_dataset(VOXELS, AFFINE, 2), ExplicitVRBigEndian),
        lambda path: write_enhanced(path, VOXELS, AFFINE),
        lambda path: write_enhanced(path, VOXELS, AFFINE, (1.5, 4.0)),
        lambda path: _run_length_encoded(path),
        lambda path: save(path, slice_dataset(VOXELS, AFFINE, 0, {"SpecificCharacterSet": "ISO_IR 192"})),
        lambda path: save(path, _with_private(slice_dataset(VOXELS, AFFINE, 0))),
        lambda path: save(path, slice_dataset(VOXELS, AFFINE, 0, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"})),
    ]
    return [make(folder / f"seed{number}").read_bytes() for number, make in enumerate(made)]


def _open_ended(dataset: Dataset) -> Dataset:
    for keyword in ("ReferencedImageSequence", "ProcedureCodeSequence"):
        dataset[keyword].is_undefined_length = True
        for item in dataset[keyword].value:
            item.is_undefined_length_sequence_item = True
    return dataset


def _with_private(dataset: Dataset) -> Dataset:
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", bytes(20_000))
    return dataset


def _run_length_encoded(path: Path) -> Path:
    save(path, slice_dataset(VOXELS, AFFINE, 0))
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path, write_like_original=False)
    return path
