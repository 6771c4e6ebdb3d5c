"""Read one MR series into a volume, or say in one line why it is not one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cfmri_core.acquisition import AcquisitionRecord
from cfmri_core.dicom import geometry
from cfmri_core.dicom.headers import MR_IMAGE_CLASSES, MULTI_FRAME_CLASSES, frame_headers, header_of, read_acquisition
from cfmri_core.dicom.parser import integer_of, is_dicom_file, number_of, parse_file, parser_errors, text_of
from cfmri_core.dicom.pixels import MAX_VOXELS, require_pixels, rescale_of, stored_values
from cfmri_core.errors import CfmriError, DicomReadError, SeveralVolumesError
from cfmri_core.volume import Volume

#: More files in one folder are refused.
MAX_FILES = 20_000
DICOM_SUFFIXES = frozenset({"", ".dcm", ".dicom", ".ima"})
NOT_DICOM_NAMES = frozenset({"DICOMDIR", "LICENSE", "README", "VERSION", "LOCKFILE", "CHANGES"})

#: Must be the same in every slice; a slice that differs was damaged or belongs elsewhere.
UNIFORM_KEYWORDS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PhotometricInterpretation",
    "FrameOfReferenceUID", "StudyInstanceUID", "PatientID",
)  # fmt: skip
#: Must agree within 1 %: otherwise the slices have different contrasts.
CONTRAST_KEYWORDS = ("EchoTime", "RepetitionTime", "FlipAngle", "MagneticFieldStrength")
#: What several images at one position may differ in -> what that makes them.
REPETITION_KEYWORDS = {
    "EchoTime": "echo time (multi-echo)",
    "ImageType": "image type (for example magnitude and phase)",
    "DiffusionBValue": "b-value (diffusion)",
    "TemporalPositionIdentifier": "time point (dynamic series)",
    "InversionTime": "inversion time",
    "AcquisitionNumber": "acquisition number (dynamic or diffusion)",
    "AcquisitionTime": "acquisition time (dynamic or diffusion)",
}


@dataclass(frozen=True)
class Series:
    """One series that forms one volume.

    Attributes:
        path: What the user gave, or what messages call it.
        volume: Intensities after rescaling, float32.
        acquisition: Acquisition parameters, the same in every slice.
        headers: One pixel-free classic header per slice, in slice order k; those of an enhanced image
            are flattened (see `frame_headers`) and keep its SOP class and instance UID.
        frame_numbers: Source frame of each slice, from 1; empty for classic images.
    """

    path: Path
    volume: Volume
    acquisition: AcquisitionRecord
    headers: tuple[Dataset, ...]
    frame_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One slice before its pixels are decoded.

    Attributes:
        path: The file.
        index: Frame in that file, from 0.
        header: Classic header without pixels: a dataset, or texts by keyword (as an index keeps them).
    """

    path: Path
    index: int
    header: Dataset


@dataclass(frozen=True)
class SeriesHeaders:
    """What the files of one series say before any pixel is decoded; it need not form a volume.

    Attributes:
        path: What the user gave.
        frames: Every image, in file order.
        acquisition: Acquisition parameters of the first image.
        is_multi_frame: Whether they come from enhanced images.
        refusal: Why the pixels cannot be used, or ``None``.
    """

    path: Path
    frames: tuple[Frame, ...]
    acquisition: AcquisitionRecord
    is_multi_frame: bool
    refusal: DicomReadError | None


@dataclass(frozen=True)
class Grid:
    """Slices in order, and where they lie.

    Attributes:
        frames: Slices in order k.
        affine: Voxel to RAS+ millimetres.
        shape: Voxels along i, j, k.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    shape: tuple[int, int, int]


def read_series(path: Path) -> Series:
    """Read a folder that holds one series, or one file, as a volume.

    Raises:
        DicomReadError: Not MR DICOM, several series, damaged, or several images at one position.
        GeometryError: The slices are not one regular stack.
    """
    return _series_of(read_headers(path))


def read_files(files: Sequence[Path], name: str) -> Series:
    """Read files that hold one series as a volume.

    Args:
        files: The files; those that are no MR images are passed over.
        name: What messages call the series.

    Raises:
        DicomReadError: As `read_series`.
        GeometryError: As `read_series`.
    """
    return _series_of(_headers_of(Path(name), files))


def read_headers(path: Path) -> SeriesHeaders:
    """Read the headers of a folder that holds one series, or of one file; pixels stay undecoded.

    In a folder, objects that are no MR images (raw data, presentation states) are passed over.

    Raises:
        DicomReadError: Nothing there, not DICOM, no MR image, damaged, or several series.
    """
    path = Path(path)
    with parser_errors(path), _named(path):
        files = _files_of(path)
    return _headers_of(path, files)


def form_grid(headers: SeriesHeaders) -> Grid:
    """Order the slices and place them in the patient.

    Raises:
        DicomReadError: Unusable pixels, several images at one position, or slices that do not belong together.
        GeometryError: Not one regular stack.
    """
    with parser_errors(headers.path), _named(headers.path):
        if headers.refusal:
            raise headers.refusal
        return grid_of(headers.frames)


def grid_of(frames: Sequence[Frame]) -> Grid:
    """Order the slices and place them in the patient; errors name no file.

    Raises:
        SeveralVolumesError: Several images at one position.
        DicomReadError: Slices that do not belong together or lack identifiers, or too many voxels.
        GeometryError: Not one regular stack.
    """
    planes = [geometry.plane_of(frame.header) for frame in frames]
    order = geometry.slice_order(planes)
    frames, planes = [frames[index] for index in order], [planes[index] for index in order]
    _require_distinct_positions(frames, planes)
    _require_identifiers(frames)
    _require_uniform(frames)
    _require_locations_in_order(frames)
    affine = geometry.affine_from_planes(planes, geometry.nominal_gap_mm(frames[0].header))
    rows, columns = (integer_of(frames[0].header, keyword) or 0 for keyword in ("Rows", "Columns"))
    if not 0 < rows * columns * len(frames) <= MAX_VOXELS:
        raise DicomReadError(f"{columns}x{rows}x{len(frames)} voxels are more than the {MAX_VOXELS} accepted.")
    return Grid(tuple(frames), affine, (columns, rows, len(frames)))


def find_series(root: Path) -> list[Path]:
    """Return the folders at and below ``root`` that hold DICOM files, sorted by path."""
    found = []
    for folder, _, names in os.walk(Path(root)):
        files = (Path(folder) / name for name in sorted(names))
        if any(_claims_to_be_dicom(file) and is_dicom_file(file) for file in files):
            found.append(Path(folder))
    return sorted(found)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the user's path in front of messages that lack it."""
    try:
        yield
    except CfmriError as error:
        if error.message.startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error.message}", error.hint) from None


def _series_of(headers: SeriesHeaders) -> Series:
    grid = form_grid(headers)
    with parser_errors(headers.path), _named(headers.path):
        volume = Volume(_intensities(grid), grid.affine)
    numbers = tuple(frame.index + 1 for frame in grid.frames) if headers.is_multi_frame else ()
    return Series(headers.path, volume, headers.acquisition, tuple(frame.header for frame in grid.frames), numbers)


def _headers_of(path: Path, files: Sequence[Path]) -> SeriesHeaders:
    with parser_errors(path), _named(path):
        parsed = [(file, *_parsed(file)) for file in files]
        images = [entry for entry in parsed if text_of(entry[1], "SOPClassUID") in MR_IMAGE_CLASSES]
        if not images:
            held = class_name(parsed[0][1]) if parsed else "nothing"
            raise DicomReadError(f"{path}: holds {held}, not an MR image.", "Give MR images.")
        _require_one_series(path, [header for _, header, _ in images])
        frames = [
            Frame(file, index, frame) for file, header, _ in images for index, frame in enumerate(frame_headers(header))
        ]
        first = images[0][1]
        refusals = [refusal for _, _, refusal in images if refusal]
        return SeriesHeaders(
            path,
            tuple(frames),
            read_acquisition(first),
            text_of(first, "SOPClassUID") in MULTI_FRAME_CLASSES,
            refusals[0] if refusals else None,
        )


def _files_of(path: Path) -> list[Path]:
    if not path.exists():
        raise DicomReadError(f"{path}: no such file or folder.")
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if _claims_to_be_dicom(file) or is_dicom_file(file)]
    if len(files) > MAX_FILES:
        raise DicomReadError(f"{path}: holds {len(files)} files; up to {MAX_FILES} are accepted.")
    if not files:
        below = find_series(path)
        hint = f"Name one of the {len(below)} folders below it that do, such as {below[0]}." if below else ""
        raise DicomReadError(f"{path}: holds no DICOM files.", hint)
    return files


def _claims_to_be_dicom(file: Path) -> bool:
    """Whether a name in a folder promises DICOM; what breaks the promise is refused, other files are passed over."""
    if file.name.startswith(".") or file.name.upper() in NOT_DICOM_NAMES or not file.is_file():
        return False
    suffix = file.suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdigit()


def _parsed(file: Path) -> tuple[Dataset, DicomReadError | None]:
    """Return a file's header, and why its pixels cannot be used if they cannot."""
    dataset = parse_file(file)
    try:
        require_pixels(dataset)
    except DicomReadError as error:
        return header_of(dataset), error
    return header_of(dataset), None


def class_name(header: Dataset | Mapping[str, str]) -> str:
    """Return the standard's name of what an object is, or "objects of an unknown kind"."""
    uid = text_of(header, "SOPClassUID") or ""
    name = str(UID(uid).name)  # the text itself where the standard does not know it: it may hold anything
    return name if name != uid else "objects of an unknown kind"


def _require_one_series(path: Path, headers: Sequence[Dataset]) -> None:
    count = len({text_of(header, "SeriesInstanceUID") for header in headers})
    if count > 1:
        raise DicomReadError(
            f"{path}: holds {count} series in {len(headers)} files.", "Give one series: sort them into one folder each."
        )


def _require_distinct_positions(frames: Sequence[Frame], planes: Sequence[geometry.Plane]) -> None:
    gaps = np.diff(geometry.distances_along_normal(planes))
    positions = 1 + int(np.count_nonzero(gaps >= geometry.SAME_POSITION_MM))
    if positions == len(planes):
        return
    reasons = [
        reason
        for keyword, reason in REPETITION_KEYWORDS.items()
        if len({text_of(frame.header, keyword) for frame in frames}) > 1
    ]
    difference = f"they differ in {', '.join(reasons)}" if reasons else "duplicates"
    raise SeveralVolumesError(
        f"{len(planes)} images at {positions} positions are not one volume: {difference}.",
        "Give one volume: split the series first.",
    )


def _require_identifiers(frames: Sequence[Frame]) -> None:
    """Refuse what cannot be referred to: both identifiers are Type 1 (PS3.3 C.7.3.1, C.12.1), one per image.

    Invented ones would let a result name a source that no archive has.
    """
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        if not all(text_of(frame.header, keyword) for frame in frames):
            raise DicomReadError(
                f"An image has no {keyword}: nothing derived from it could name its source.",
                "Export the series again, or convert it with dcm2niix and give the .nii.gz.",
            )
    if len({text_of(frame.header, "SOPInstanceUID") for frame in frames}) < len({frame.path for frame in frames}):
        raise DicomReadError("Different files carry one SOPInstanceUID.", "Export the series again.")


def _require_uniform(frames: Sequence[Frame]) -> None:
    for keyword in UNIFORM_KEYWORDS:
        if len({text_of(frame.header, keyword) for frame in frames}) > 1:
            raise DicomReadError(f"The slices differ in {keyword}: one is damaged or belongs to another series.")
    if len({rescale_of(frame.header) for frame in frames}) > 1:
        raise DicomReadError("The slices differ in RescaleSlope or RescaleIntercept: one is damaged or foreign.")
    for keyword in CONTRAST_KEYWORDS:
        values = [number_of(frame.header, keyword) for frame in frames]
        known = [value for value in values if value is not None]
        if known and (len(known) < len(values) or np.ptp(known) > 0.01 * max(map(abs, known))):
            raise DicomReadError(f"The slices differ in {keyword}: several contrasts in one series.")


def _require_locations_in_order(frames: Sequence[Frame]) -> None:
    """Refuse slices whose SliceLocation rises and falls along the stack: positions were exchanged."""
    locations = [number_of(frame.header, "SliceLocation") for frame in frames]
    known = [location for location in locations if location is not None]
    if len(known) < len(frames) or len(set(known)) < len(known):
        return
    steps = np.diff(known)
    if steps.min(initial=0) < 0 < steps.max(initial=0):
        raise DicomReadError("SliceLocation and ImagePositionPatient give the slices different orders.")


def _intensities(grid: Grid) -> NDArray[np.float32]:
    """Decode every slice; float32, shape ``(i, j, k)``, each slice contiguous in memory."""
    voxels = np.empty(grid.shape, dtype=np.float32, order="F")
    slope, intercept = rescale_of(grid.frames[0].header)
    for k, values in _decoded(grid.frames):
        voxels[:, :, k] = (values.astype(np.float64) * slope + intercept).T
    return voxels


def _decoded(frames: Sequence[Frame]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Yield slice number and stored values, shape ``(rows, columns)``, decoding each file once."""
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for k, frame in enumerate(frames):
        by_file.setdefault(frame.path, []).append((k, frame.index))
    for path, slices in by_file.items():
        with parser_errors(path), _named(path):
            values = stored_values(parse_file(path))
            for k, index in slices:
                yield k, values[index]
