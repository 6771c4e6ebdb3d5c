"""Write a simulated volume as a classic DICOM series, marked as synthetic."""

from __future__ import annotations

import datetime
import json
import uuid
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.volume import Volume

_MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
_UID_NAMESPACE = uuid.UUID("5f6d5f3e-7a35-4a7e-9d0e-9f6f4f2f8f10")


def write_series(
    folder: Path,
    volume: Volume,
    parameters: AcquisitionParameters,
    subject_id: str,
    seed: int,
    *,
    rendering: str = "",
) -> None:
    """Write a simulated volume as classic MR images, one file a slice, marked as synthetic.

    Args:
        folder: New folder for the files.
        volume: Axial volume whose axes i, j, k run left, back, head.
        parameters: Written to the attributes that a scanner would fill.
        subject_id: Patient ID and name.
        seed: Makes the UIDs: the same subject, seed, parameters and rendering give the same UIDs.
        rendering: Tells apart the series of one subject that have the same parameters.
    """
    folder.mkdir(parents=True)
    key = f"{subject_id}/{seed}/{json.dumps(parameters.as_dict(), sort_keys=True)}" + (rendering and f"/{rendering}")
    stored = np.clip(np.round(volume.voxels), 0, 65535).astype(np.uint16)
    for k in range(volume.shape[2]):
        dataset = _slice_dataset(volume, stored[:, :, k], k, key, subject_id, seed)
        _set_acquisition(dataset, parameters)
        dataset.save_as(folder / f"{k + 1:04d}.dcm", write_like_original=False)


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
