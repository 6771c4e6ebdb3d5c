"""Small MR series made in memory, with known geometry, intensities and parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_CONVERTED_ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.4"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SERIES_UID = "1.2.3.4.5.6"

PATIENT = {"PatientName": "SENTINEL^NAME", "PatientID": "SENTINELID", "PatientBirthDate": "19700101", "PatientSex": "F"}
ACQUISITION = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Avanto",
    "MagneticFieldStrength": "1.494",
    "ScanOptions": ["PFP", "FS"],
    "FlipAngle": "10",
    "SliceThickness": "2",
    "EchoTime": "2.81",
    "RepetitionTime": "5.53",
}


def orientations() -> Iterator[np.ndarray]:
    """Yield the 48 signed permutations of the axes as 3x3 matrices."""
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(permutation), range(3)] = signs
            yield matrix


def rotation(degrees_x: float, degrees_y: float, degrees_z: float) -> np.ndarray:
    """Return the 3x3 matrix of three rotations, one after another."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((degrees_x, degrees_y, degrees_z)):
        a, b = [index for index in range(3) if index != axis]
        step = np.eye(3)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        step[a, a], step[a, b], step[b, a], step[b, b] = cosine, -sine, sine, cosine
        matrix = step @ matrix
    return matrix


def affine_of(
    directions: np.ndarray,
    spacing: tuple[float, float, float] = (0.9, 1.3, 2.5),
    origin: tuple[float, ...] = (11, -7, 3),
) -> np.ndarray:
    """Return the voxel-to-RAS affine of a grid."""
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def distinct_voxels(shape: tuple[int, int, int] = (7, 5, 4)) -> np.ndarray:
    """Return an image in which every voxel has its own value, uint16."""
    return np.random.default_rng(3).permutation(int(np.prod(shape))).reshape(shape).astype(np.uint16)


def slice_dataset(
    voxels: np.ndarray, affine: np.ndarray, k: int, attributes: Mapping[str, Any] | None = None
) -> Dataset:
    """Return one classic MR image: slice k of integer voxels, shape ``(i, j, k)``, placed by a RAS affine."""
    dataset = Dataset()
    dataset.SOPClassUID = MR_IMAGE
    dataset.SOPInstanceUID = f"{SERIES_UID}.{k + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = (
        "1.2.3.4",
        SERIES_UID,
        "1.2.3.4.9",
    )
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200102", "101112", "1", ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber, dataset.ReferringPhysicianName = "MR", 4, k + 1, ""
    dataset.ImageType, dataset.PatientPosition = ["ORIGINAL", "PRIMARY", "M"], "HFP"
    dataset.PositionReferenceIndicator, dataset.AcquisitionDate = "", "20200102"
    dataset.BodyPartExamined, dataset.Laterality = "BREAST", ""
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "GR", "SP", "3D"
    dataset.EchoTrainLength = 1
    for keyword, value in {**PATIENT, **ACQUISITION}.items():
        setattr(dataset, keyword, value)
    set_plane(dataset, affine, k)
    set_pixels(dataset, voxels[:, :, k].T)
    for keyword, value in (attributes or {}).items():
        if value is None and keyword in dataset:
            del dataset[keyword]
        elif value is not None:
            setattr(dataset, keyword, value)
    return dataset


def set_plane(dataset: Dataset, affine: np.ndarray, k: int) -> None:
    """Write position, orientation and spacing of slice k."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    dataset.ImagePositionPatient = [f"{value:.10g}" for value in lps[:3, 3] + k * lps[:3, 2]]
    dataset.ImageOrientationPatient = [f"{value:.10g}" for value in (lps[:3, :2] / spacing[:2]).T.ravel()]
    dataset.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    dataset.SpacingBetweenSlices = f"{spacing[2]:.10g}"


def set_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    """Write 16-bit pixels, shape ``(rows, columns)`` or ``(frames, rows, columns)``."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    dataset.add_new("PixelData", "OW", np.ascontiguousarray(stored).astype(f"<{stored.dtype.kind}2").tobytes())


def save(path: Path, dataset: Dataset) -> Path:
    """Write a dataset as explicit little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta, dataset.is_little_endian, dataset.is_implicit_VR = meta, True, False
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, write_like_original=False)
    return path


def write_series(
    folder: Path, voxels: np.ndarray, affine: np.ndarray, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Write a classic series whose file names and instance numbers say nothing about slice order."""
    order = np.random.default_rng(1).permutation(voxels.shape[2])
    for k in range(voxels.shape[2]):
        dataset = slice_dataset(voxels, affine, k, attributes)
        dataset.InstanceNumber = int(order[k]) + 1
        save(folder / f"IM{order[k]:04d}.dcm", dataset)
    return folder


def write_enhanced(
    path: Path, voxels: np.ndarray, affine: np.ndarray, echo_times_ms: tuple[float, ...] = (2.81,)
) -> Path:
    """Write an enhanced MR image, frames in falling slice order, one set of frames per echo time."""
    frames = [(k, echo) for echo in echo_times_ms for k in reversed(range(voxels.shape[2]))]
    dataset = slice_dataset(voxels, affine, 0)
    dataset.SOPClassUID, dataset.NumberOfFrames = ENHANCED_MR_IMAGE, len(frames)
    for keyword in ("FlipAngle", "RepetitionTime", "EchoTime", "SliceThickness", "ScanningSequence", "ScanOptions"):
        del dataset[keyword]
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices"):
        del dataset[keyword]
    dataset.EchoPulseSequence = "GRADIENT"
    timing = Dataset()
    timing.FlipAngle, timing.RepetitionTime = "10", "5.53"
    shared = Dataset()
    shared.MRTimingAndRelatedParametersSequence = [timing]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_frame_group(affine, k, echo) for k, echo in frames]
    set_pixels(dataset, np.stack([voxels[:, :, k].T for k, _ in frames]))
    return save(path, dataset)


def write_converted(path: Path, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """Write a legacy converted enhanced MR image: what has no functional group is kept in sequences of its own."""
    dataset = pydicom.dcmread(write_enhanced(path, voxels, affine))
    dataset.SOPClassUID = LEGACY_CONVERTED_ENHANCED_MR_IMAGE
    del dataset.EchoPulseSequence, dataset.MagneticFieldStrength, dataset.MRAcquisitionType
    shared, classic = Dataset(), slice_dataset(voxels, affine, 0)
    for keyword in ("FlipAngle", "RepetitionTime", "ScanOptions", "ScanningSequence", "MagneticFieldStrength"):
        shared.add(classic[keyword])
    dataset.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = [shared]
    del dataset.SharedFunctionalGroupsSequence[0].MRTimingAndRelatedParametersSequence
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        own = Dataset()
        own.EchoTime, own.SliceLocation, own.SOPInstanceUID = "2.81", number, "1.2.99"
        group.UnassignedPerFrameConvertedAttributesSequence = [own]
        del group.MREchoSequence
    return save(path, dataset)


def _frame_group(affine: np.ndarray, k: int, echo_time_ms: float) -> Dataset:
    plane, group = Dataset(), Dataset()
    set_plane(plane, affine, k)
    position, orientation, measures, echo, values = (Dataset() for _ in range(5))
    position.ImagePositionPatient = plane.ImagePositionPatient
    orientation.ImageOrientationPatient = plane.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = plane.PixelSpacing, "2"
    measures.SpacingBetweenSlices = plane.SpacingBetweenSlices
    echo.EffectiveEchoTime = echo_time_ms
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "0.5", "-3", "US"
    group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
    group.PixelMeasuresSequence, group.MREchoSequence = [measures], [echo]
    group.PixelValueTransformationSequence = [values]
    return group


def assert_same_image(
    voxels: np.ndarray,
    affine: np.ndarray,
    others: np.ndarray,
    other_affine: np.ndarray,
    tolerance: float = 0.0,
    tolerance_mm: float = 1e-3,
) -> None:
    """Check that two images hold the same values at the same places: voxel axes may differ."""
    relative = np.linalg.inv(other_affine) @ affine
    matrix, offset = np.rint(relative[:3, :3]).astype(int), np.rint(relative[:3, 3]).astype(int)
    assert np.array_equal(np.abs(matrix).sum(axis=0), [1, 1, 1])
    corners = np.array([(*index, 1) for index in itertools.product(*((0, size - 1) for size in voxels.shape))])
    nearest = corners[:, :3] @ matrix.T + offset
    places = np.column_stack([nearest, np.ones(8)]) @ other_affine.T
    assert np.abs(places - corners @ affine.T).max() <= tolerance_mm
    assert (nearest >= 0).all()
    assert (nearest < others.shape).all()
    axes = np.argmax(np.abs(matrix), axis=0)
    flips = tuple(slice(None, None, int(matrix[axes[axis], axis])) for axis in range(3))
    aligned = np.transpose(others, axes)[flips]
    assert aligned.shape == voxels.shape
    assert np.abs(voxels.astype(float) - aligned).max() <= tolerance
