"""Write simulated subjects as studies: classic DICOM series, tissue labels, paired truth."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_folder, write_text
from cfmri_core.io.nifti import write_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.anatomy import Anatomy, anatomy_from_labels, generate_anatomy
from cfmri_core.simulation.protocols import PRESETS, draw_protocol
from cfmri_core.simulation.scanner import Subject, draw_subject, scan, scanned_labels
from cfmri_core.volume import Volume

#: Said in every study that is written.
DISCLAIMER = (
    "Simulated, not acquired. Physics: two-pool spoiled gradient echo with field, B1, B0, slice averaging, k-space "
    "truncation and Rician noise. Invented: anatomy, k-space window, receive bias, residual fat and noise level of "
    "each scanner model and scan option."
)
#: Paired target that stands for a protocol drawn from the other manufacturers' cells.
OTHER_MANUFACTURER = "other-manufacturer"
_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_UID_NAMESPACE = uuid.UUID("5f6d5f3e-7a35-4a7e-9d0e-9f6f4f2f8f10")


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What to simulate for each subject.

    Attributes:
        changes: Parameters to fix; the others are drawn from the Duke distribution.
        paired: Name of each paired rendering, and the parameters it changes, or `OTHER_MANUFACTURER`.
        labels: Label map to use instead of a procedural anatomy.
        lesions: Mass lesions per subject.
        slab_mm: Extent along the body.
    """

    changes: Mapping[str, str | float] = field(default_factory=dict)
    paired: Mapping[str, Mapping[str, str | float] | str] = field(default_factory=dict)
    labels: Volume | None = None
    lesions: int = 0
    slab_mm: float = 60.0


def simulate_dataset(
    root: Path, subjects: int, seed: int, plan: StudyPlan, *, workers: int = 1, progress: Progress = silent
) -> list[Path]:
    """Simulate ``sub-0001`` and so on below ``root``; a subject that is complete already is kept.

    Args:
        root: Folder to write into.
        subjects: How many.
        seed: Subject n uses seed ``seed + n``; disjoint ranges give disjoint subjects.
        plan: What to simulate.
        workers: Processes.
        progress: Called after each subject.

    Returns:
        The study folders.
    """
    if subjects < 1:
        raise RequestError(f"{subjects} subjects asked for.", "Give at least 1.")
    folders = [root / f"sub-{number:04d}" for number in range(1, subjects + 1)]
    todo = [(folder, seed + number) for number, folder in enumerate(folders, 1) if not folder.exists()]
    done = subjects - len(todo)
    for folder in _simulated(todo, plan, workers):
        done += 1
        progress(done, subjects, folder.name)
    write_text(root / "dataset.json", json.dumps({"simulated": True, "note": DISCLAIMER, "seed": seed}, indent=2))
    return folders


def _simulated(todo: Sequence[tuple[Path, int]], plan: StudyPlan, workers: int) -> Iterator[Path]:
    if workers <= 1 or len(todo) <= 1:
        yield from (simulate_study(folder, seed, plan) for folder, seed in todo)
        return
    # Spawned, not forked: a fork of a process that has threads (torch, Qt) can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(simulate_study, folder, seed, plan) for folder, seed in todo]:
            yield future.result()


def simulate_study(folder: Path, seed: int, plan: StudyPlan) -> Path:
    """Simulate one subject into ``folder``: DICOM series, labels, ``study.json`` and paired renderings.

    Returns:
        The folder.
    """
    rng = np.random.default_rng((seed, 5))
    manufacturer = plan.changes.get("manufacturer")
    drawn = draw_protocol(rng, str(manufacturer) if manufacturer else None)
    parameters = drawn.replaced(plan.changes)
    anatomy = _anatomy(seed, plan)
    subject = draw_subject(anatomy, seed)
    with atomic_folder(folder) as partial:
        volume = scan(anatomy, subject, parameters, noise_seed=seed)
        write_series(partial / "dicom", volume, parameters, folder.name, seed)
        write_nifti(partial / "labels.nii.gz", scanned_labels(anatomy), None)
        for name, target in plan.paired.items():
            wanted = _target(rng, parameters, target)
            _write_pair(partial / "paired" / name, anatomy, subject, wanted, folder.name, seed)
        _write_description(partial, parameters, seed, anatomy)
    return folder


def write_series(folder: Path, volume: Volume, parameters: AcquisitionParameters, subject_id: str, seed: int) -> None:
    """Write a simulated volume as classic MR images, one file a slice, marked as synthetic.

    Args:
        folder: New folder for the files.
        volume: Axial volume whose axes i, j, k run left, back, head.
        parameters: Written to the attributes that a scanner would fill.
        subject_id: Patient ID and name.
        seed: Makes the UIDs: the same subject, seed and parameters give the same UIDs.
    """
    folder.mkdir(parents=True)
    key = f"{subject_id}/{seed}/{json.dumps(parameters.as_dict(), sort_keys=True)}"
    stored = np.clip(np.round(volume.voxels), 0, 65535).astype(np.uint16)
    for k in range(volume.shape[2]):
        dataset = _slice_dataset(volume, stored[:, :, k], k, key, subject_id, seed)
        _set_acquisition(dataset, parameters)
        dataset.save_as(folder / f"{k + 1:04d}.dcm", write_like_original=False)


def _anatomy(seed: int, plan: StudyPlan) -> Anatomy:
    if plan.labels is not None:
        return anatomy_from_labels(plan.labels, seed=seed, slab_mm=plan.slab_mm)
    return generate_anatomy(seed, slab_mm=plan.slab_mm, lesions=plan.lesions)


def _target(
    rng: np.random.Generator, source: AcquisitionParameters, target: Mapping[str, str | float] | str
) -> AcquisitionParameters:
    if isinstance(target, str):
        if target == OTHER_MANUFACTURER:
            others = {p.manufacturer for p in PRESETS.values()} - {source.manufacturer}
            return draw_protocol(rng, sorted(str(name) for name in others)[0])
        if target in PRESETS:
            return PRESETS[target]
        accepted = ", ".join([OTHER_MANUFACTURER, *PRESETS])
        raise RequestError(f"'{target}' is not a paired target.", f"Use parameters or one of: {accepted}.")
    return source.replaced(target)


def _write_pair(
    folder: Path, anatomy: Anatomy, subject: Subject, parameters: AcquisitionParameters, subject_id: str, seed: int
) -> None:
    """The same subject under other parameters: a noisy DICOM series and the noise-free truth."""
    folder.mkdir(parents=True)
    noisy = scan(anatomy, subject, parameters, noise_seed=seed + 1_000_003)
    write_series(folder / "dicom", noisy, parameters, subject_id, seed)
    write_nifti(folder / "truth.nii.gz", scan(anatomy, subject, parameters, noise_seed=None), None)
    _write_description(folder, parameters, seed, anatomy)


def _write_description(folder: Path, parameters: AcquisitionParameters, seed: int, anatomy: Anatomy) -> None:
    description = {
        "simulated": True,
        "note": DISCLAIMER,
        "seed": seed,
        "parameters": parameters.as_dict(),
        "fibroglandular_share": round(anatomy.fibroglandular_share, 4),
    }
    write_text(folder / "study.json", json.dumps(description, indent=2))


def _uid(*parts: object) -> str:
    return f"2.25.{uuid.uuid5(_UID_NAMESPACE, '/'.join(str(part) for part in parts)).int}"


def _slice_dataset(
    volume: Volume, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], k: int, key: str, subject: str, seed: int
) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _MR_IMAGE_STORAGE
    meta.MediaStorageSOPInstanceUID = _uid("instance", key, k)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.is_little_endian, dataset.is_implicit_VR = True, False
    dataset.SOPClassUID, dataset.SOPInstanceUID = _MR_IMAGE_STORAGE, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = _uid("study", subject, seed)
    dataset.SeriesInstanceUID = _uid("series", key)
    dataset.FrameOfReferenceUID = _uid("frame", subject, seed)
    _set_identity(dataset, subject)
    _set_image(dataset, volume, pixels, k)
    return dataset


def _set_identity(dataset: Dataset, subject: str) -> None:
    now = datetime.datetime.now(tz=datetime.UTC)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = f"SIMULATED^{subject}", subject
    dataset.PatientBirthDate, dataset.PatientSex = "", "F"
    dataset.StudyDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.StudyID = ""
    dataset.Modality, dataset.SeriesNumber, dataset.Laterality = "MR", 1, ""
    dataset.SeriesDescription = "SIMULATED breast phantom (not for diagnosis)"
    dataset.BodyPartExamined, dataset.PatientPosition = "BREAST", "HFP"
    dataset.PositionReferenceIndicator = ""
    dataset.add_new(0x0008001C, "CS", "YES")  # Synthetic Data; by number because pydicom 2.4 does not know the keyword


def _set_image(
    dataset: Dataset, volume: Volume, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint16]], k: int
) -> None:
    spacing = volume.spacing_mm
    lps = np.diag([-1.0, -1.0, 1.0]) @ volume.affine[:3]
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [f"{value:.6g}" for value in lps[:, 2] * k + lps[:, 3]]
    direction = lps[:, :2] / np.array(spacing[:2])
    dataset.ImageOrientationPatient = [f"{value:.6g}" for value in direction.T.ravel()]
    dataset.PixelSpacing = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"]
    dataset.SpacingBetweenSlices = f"{spacing[2]:.8g}"
    dataset.Columns, dataset.Rows = volume.shape[0], volume.shape[1]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = np.ascontiguousarray(pixels.T).tobytes()


def _set_acquisition(dataset: Dataset, parameters: AcquisitionParameters) -> None:
    dataset.Manufacturer = parameters.manufacturer or ""
    dataset.ManufacturerModelName = parameters.manufacturer_model or ""
    dataset.MagneticFieldStrength = parameters.field_strength_t
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "GR", "SP", "3D"
    dataset.ScanOptions = (parameters.scan_options or "").split("\\")
    dataset.FlipAngle, dataset.SliceThickness = parameters.flip_angle_deg, parameters.slice_thickness_mm
    dataset.EchoTime, dataset.RepetitionTime = parameters.echo_time_ms, parameters.repetition_time_ms
    dataset.EchoTrainLength = 1
