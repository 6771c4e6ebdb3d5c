"""Write a counterfactual volume as a derived, synthetic MR series.

**Which values the attributes hold.** Everything in the MR Image module (echo and repetition time, flip
angle, slice thickness, field strength, scan options) is written as *requested*, because viewers sort and
label by it and it describes the contrast shown. The General Equipment module (Manufacturer,
ManufacturerModelName and whatever else names the machine) stays *factual*: it says which device scanned
this patient, a PACS routes and audits by it, and a serial number of one maker under another's name would
be a false record. Both sets are in DerivationDescription, the changes in SeriesDescription, the source
images are referenced, and SyntheticData is YES, so no old value stays silently and no new one passes for
measured. `write_requested` is the one place to decide otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cfmri_core import __version__
from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.dicom.geometry import LPS_TO_RAS
from cfmri_core.dicom.headers import MR_IMAGE, decimal_string
from cfmri_core.dicom.parser import SYNTHETIC_DATA, integer_of, parser_errors, text_of
from cfmri_core.dicom.pixels import rescale_of
from cfmri_core.dicom.provenance import (
    Derivation,
    derivation_description,
    deterministic_uid,
    equipment_item,
    series_description,
    source_image_item,
)
from cfmri_core.dicom.read import Series
from cfmri_core.errors import GeometryError
from cfmri_core.io.atomic import atomic_folder, require_replaceable
from cfmri_core.io.json_text import json_text
from cfmri_core.volume import Volume

EVIDENCE_NAME = "evidence.json"
IMPLEMENTATION_CLASS_UID = deterministic_uid("implementation class", "cfmri")

#: Parameters whose attributes belong to the MR Image module and are written as requested.
REQUESTED_IN_ATTRIBUTES = (
    "echo_time_ms", "repetition_time_ms", "flip_angle_deg", "slice_thickness_mm", "field_strength_t", "scan_options",
)  # fmt: skip
#: True of the source's pixels, encoding or scan only, so wrong in the derived image.
STALE_KEYWORDS = (
    "SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction",
    "ModalityLUTSequence", "RealWorldValueMappingSequence", "IconImageSequence", "PixelDataProviderURL",
    "DataSetTrailingPadding", "DigitalSignaturesSequence", "MACParametersSequence", "EncryptedAttributesSequence",
    "OriginalAttributesSequence", "InstanceCreatorUID", "DerivationCodeSequence", "DerivationImageSequence",
    "SourceImageSequence", "SourceInstanceSequence", "ImagingFrequency", "SAR", "dBdt",
    "SpecificAbsorptionRateDefinition", "SpecificAbsorptionRateValue", "TimezoneOffsetFromUTC",
    "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "FrameIncrementPointer",
    "DimensionOrganizationSequence", "DimensionIndexSequence", "DimensionOrganizationType", "RepresentativeFrameNumber",
    "ConcatenationUID", "InConcatenationNumber", "InConcatenationTotalNumber", "ConcatenationFrameOffsetNumber",
    "SOPInstanceUIDOfConcatenationSource", "MultiFramePresentationSequence",
)  # fmt: skip
#: Groups of overlays and curves: 50xx and 60xx.
_OVERLAY_GROUPS = (0x50, 0x60)
#: Attributes of enhanced objects only have elements from here on; they would contradict a classic image.
FIRST_ENHANCED_ELEMENT = 0x9000
#: Percentiles shown as black and white.
WINDOW_PERCENTILES = (0.5, 99.5)
#: Attributes a classic MR image must have; empty where the source has none (Type 2).
REQUIRED_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "PositionReferenceIndicator", "Manufacturer", "ScanOptions", "MRAcquisitionType",
    "EchoTime", "RepetitionTime", "EchoTrainLength", "SliceThickness", "PatientPosition",
)  # fmt: skip
#: Attributes that must have a value (Type 1): "research mode" and "none" say that it is not known.
REQUIRED_VALUES = {"ScanningSequence": "RM", "SequenceVariant": "NONE"}


@dataclass(frozen=True)
class PixelScale:
    """Linear map from 16-bit stored values to intensities; the numbers are those that fit a decimal string.

    Attributes:
        slope: Intensity per stored value.
        intercept: Intensity of stored value 0.
        window: Centre and width for display, in intensities.
    """

    slope: float
    intercept: float
    window: tuple[float, float]

    @classmethod
    def of(cls, voxels: NDArray[Any]) -> PixelScale:
        """Spread the range of the voxels over 16 bits, with intensity 0 on a stored value where it is in range."""
        low, high = float(voxels.min()), float(voxels.max())
        slope = float(decimal_string((high - low) / 65534)) or 1.0
        intercept = np.floor(low / slope) * slope if low < 0 < high else low
        return cls(slope, float(decimal_string(float(intercept))), _window(voxels, slope))

    @classmethod
    def of_source(cls, source: Series, voxels: NDArray[Any]) -> PixelScale:
        """Take the source's own scale, so that a voxel that was not changed keeps its stored value.

        Where the source stores negative values, all are moved up by the lowest, and the intercept down.
        """
        slope, intercept = rescale_of(source.headers[0])
        lowest = min(0.0, float(np.rint((source.volume.voxels.astype(np.float64) - intercept) / slope).min()))
        return cls(slope, intercept + slope * lowest, _window(voxels, abs(slope)))

    def store(self, voxels: NDArray[Any]) -> NDArray[np.uint16]:
        """Return the nearest stored values, shape of the voxels."""
        return np.asarray(np.clip(self._exact(voxels), 0, 65535), dtype="<u2")

    def beyond(self, voxels: NDArray[Any]) -> int:
        """Return how many voxels have no stored value, so that `store` gives them the last one."""
        exact = self._exact(voxels)
        return int(((exact < 0) | (exact > 65535)).sum())

    def _exact(self, voxels: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.rint((voxels.astype(np.float64) - self.intercept) / self.slope))


def _window(voxels: NDArray[Any], least_width: float) -> tuple[float, float]:
    dark, bright = np.percentile(voxels, WINDOW_PERCENTILES)
    return float(dark + bright) / 2, max(float(bright - dark), least_width)


def write_derived_series(
    folder: Path,
    source: Series,
    volume: Volume,
    requested: AcquisitionParameters,
    evidence: Mapping[str, Any],
    scale: PixelScale | None = None,
) -> Path:
    """Write a counterfactual of a series as classic single-frame MR images, and the evidence beside them.

    Identifiers depend on the source's, this version, the model, the edits and the seed alone, those of a map on
    its voxels: a second run makes the same ones, and storing both does no harm.

    Args:
        folder: Receives one file per slice and ``evidence.json``; must not exist, or be empty.
        source: The factual series, classic or enhanced.
        volume: Counterfactual intensities on the source's grid, or on a box of it (a slab).
        requested: Parameters the result is meant to have; see the module's text for where they go.
        evidence: Provenance and quality.
        scale: From intensities to stored values; ``None`` spreads the volume's range over 16 bits.

    Returns:
        The folder.

    Raises:
        RequestError: The folder holds something.
        GeometryError: The volume is not on the source's grid.
        DicomReadError: The source's header has what cannot be written.
        ResourceError: The folder cannot be written.
    """
    folder = Path(folder)
    require_replaceable(folder)
    first = box_in(source.volume, volume)
    derivation = Derivation.of(source.acquisition.parameters, requested, evidence, volume)
    scale = scale or PixelScale.of(volume.voxels)
    stored = scale.store(volume.voxels)
    with atomic_folder(folder) as partial:
        for k in range(volume.shape[2]):
            with parser_errors(source.path):
                image = _derived_image(source, first[2] + k, derivation)
                _write_position(image, volume, k, first[:2] != (0, 0))
                _write_numbering(image, source, first[2], k, volume.shape[2])
                _write_pixels(image, stored[:, :, k].T, scale)
                _set_file_meta(image)
                content = encoded(image)
            (partial / f"{k + 1:04d}.dcm").write_bytes(content)
        (partial / EVIDENCE_NAME).write_text(json_text(evidence), encoding="utf-8")
    return folder


def box_in(whole: Volume, part: Volume) -> tuple[int, int, int]:
    """Return the voxel of ``whole`` at which ``part``, cut out of it along the axes, begins.

    Raises:
        GeometryError: The part is not such a box.
    """
    relative = np.linalg.inv(whole.affine) @ part.affine
    first = np.rint(relative[:3, 3])
    corner = relative[:3, 3] - first
    same_axes = np.allclose(relative[:3, :3], np.eye(3), atol=1e-5)
    inside = np.all(first >= 0) and np.all(first + part.shape <= whole.shape)
    if not same_axes or not inside or np.abs(corner).max() > 1e-3:
        raise GeometryError("The result does not lie on the grid of the input series.")
    i, j, k = (int(index) for index in first)
    return i, j, k


def encoded(image: Dataset) -> bytes:
    """Return an object as the bytes of its file, so that what cannot be encoded is known before a disk is involved."""
    stream = BytesIO()
    pydicom.dcmwrite(stream, image, write_like_original=False)
    return stream.getvalue()


def write_requested(image: Dataset, derivation: Derivation) -> None:
    """Write the requested acquisition parameters into an image: the one place that decides which go where."""
    changes = derivation.requested.differences(derivation.factual)
    for name in REQUESTED_IN_ATTRIBUTES:
        value = changes.get(name, (None, None))[0]
        if value is None:
            continue
        written = value.split("\\") if isinstance(value, str) else decimal_string(value)
        setattr(image, PARAMETER_BY_NAME[name].keyword, written)


def _derived_image(source: Series, k: int, derivation: Derivation) -> Dataset:
    header = source.headers[k]
    frame_number = source.frame_numbers[k] if source.frame_numbers else None
    image = _kept_attributes(header, frame_number is not None)
    _complete(image)
    image.SOPClassUID = MR_IMAGE
    image.Modality = "MR"
    image.SOPInstanceUID = derivation.uid(str(header.SOPInstanceUID), str(frame_number or ""))
    image.SeriesInstanceUID = derivation.uid(str(header.SeriesInstanceUID))
    write_requested(image, derivation)
    _write_markings(image, header, derivation)
    image.SourceImageSequence = [source_image_item(header, frame_number)]
    return image


def _kept_attributes(header: Dataset, is_multi_frame: bool) -> Dataset:
    """Copy what stays true; elements are copied one by one, so that the source's header is not changed."""
    image = Dataset()
    for element in header:
        is_overlay = element.tag.group >> 8 in _OVERLAY_GROUPS
        is_empty_sequence = element.VR == "SQ" and not element.value
        is_multi_frame_only = is_multi_frame and element.tag.element >= FIRST_ENHANCED_ELEMENT
        if not (is_overlay or is_empty_sequence or is_multi_frame_only or element.keyword in STALE_KEYWORDS):
            image.add(copy.copy(element))
    if is_multi_frame and "IR" not in (text_of(image, "ScanningSequence") or "") and "InversionTime" in image:
        del image.InversionTime  # enhanced objects carry it always, classic ones only with inversion recovery
    return image


def _complete(image: Dataset) -> None:
    """Add what a classic MR image must have and the source lacks."""
    for keyword in REQUIRED_KEYWORDS:
        if keyword not in image:
            setattr(image, keyword, None)
    for keyword, value in REQUIRED_VALUES.items():
        if not text_of(image, keyword):
            setattr(image, keyword, value)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not text_of(image, keyword):
            setattr(image, keyword, deterministic_uid(keyword, str(image.SeriesInstanceUID)))


def _write_markings(image: Dataset, header: Dataset, derivation: Derivation) -> None:
    source_type = (text_of(header, "ImageType") or "").split("\\")
    image.ImageType = ["DERIVED", "SECONDARY", *(source_type[2:] or ["OTHER"])]
    image.add_new(SYNTHETIC_DATA, "CS", "YES")
    image.SeriesDescription = series_description(derivation)
    image.SeriesNumber = derivation.series_number
    image.DerivationDescription = derivation_description(derivation)
    image.ImageComments = series_description(derivation)
    image.ContributingEquipmentSequence = [
        *(header.get("ContributingEquipmentSequence") or []), equipment_item(derivation),
    ]  # fmt: skip
    for keyword in ("InstanceCreation", "Series", "Content"):
        setattr(image, f"{keyword}Date", derivation.created.strftime("%Y%m%d"))
        setattr(image, f"{keyword}Time", derivation.created.strftime("%H%M%S.%f"))
    if not text_of(image, "BurnedInAnnotation"):
        image.BurnedInAnnotation = "NO"


def _write_position(image: Dataset, volume: Volume, k: int, is_cropped_in_plane: bool) -> None:
    """Place a slice; the source's own text is kept where the slice is whole, so that nothing is rounded."""
    columns, rows, _ = volume.shape
    image.Rows, image.Columns = rows, columns
    if is_cropped_in_plane:
        position = (LPS_TO_RAS @ volume.affine @ (0, 0, k, 1))[:3]
        image.ImagePositionPatient = [decimal_string(float(value)) for value in position]


def _write_numbering(image: Dataset, source: Series, first: int, k: int, count: int) -> None:
    """Keep the source's instance numbers where they tell the slices apart, so that viewers scroll alike."""
    numbers = [integer_of(header, "InstanceNumber") for header in source.headers[first : first + count]]
    image.InstanceNumber = k + 1 if None in numbers or len(set(numbers)) < count else numbers[k]


def _write_pixels(image: Dataset, stored: NDArray[np.uint16], scale: PixelScale) -> None:
    image.SamplesPerPixel = 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = decimal_string(scale.slope), decimal_string(scale.intercept)
    image.RescaleType = "US"
    image.add_new("SmallestImagePixelValue", "US", int(stored.min()))
    image.add_new("LargestImagePixelValue", "US", int(stored.max()))
    image.WindowCenter, image.WindowWidth = (decimal_string(float(f"{value:.6g}")) for value in scale.window)
    if scale.window[1] < 1:
        image.VOILUTFunction = "LINEAR_EXACT"  # the plain linear function is not defined for narrower windows
    image.add_new("PixelData", "OW", np.ascontiguousarray(stored).tobytes())


def _set_file_meta(image: Dataset) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"CFMRI_{__version__}"[:16]
    image.file_meta = meta
    image.preamble = b"\0" * 128  # a preamble can hide another file type (CVE-2019-11687)
    image.is_little_endian, image.is_implicit_VR = True, False
