"""Make an MR image that names nobody: only listed attributes survive, everything else is left behind.

A list of what may stay is safe against attributes that nobody thought of; a list of what must go is not. Nothing
that the Basic Application Confidentiality Profile (PS3.15 table E.1-1) removes or replaces is kept as it was:
identifiers are replaced by keyed digests, dates are emptied, texts and private attributes are gone.

**What this does not do.** It changes no pixel: a face in a head scan stays a face. An image that says that text is
burned into it is refused; one that does not say so is trusted.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from cfmri_core.dicom.headers import (
    CONVERTED_SEQUENCES,
    FUNCTIONAL_GROUP_SEQUENCES,
    MR_IMAGE_CLASSES,
    header_of,
    readable_elements,
)
from cfmri_core.dicom.parser import SYNTHETIC_DATA, text_of
from cfmri_core.dicom.pixels import stored_values
from cfmri_core.dicom.provenance import code_item, deterministic_uid
from cfmri_core.errors import DicomReadError, RefusedError

#: Kept as they are: how the image was acquired, where it lies, how its pixels are stored.
KEPT_KEYWORDS = frozenset({
    "ImageType", "SOPClassUID", "Modality", "Manufacturer", "ManufacturerModelName",
    "BodyPartExamined", "Laterality", "ImageLaterality", "PatientPosition",
    "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "AngioFlag", "SliceThickness",
    "RepetitionTime", "EchoTime", "InversionTime", "NumberOfAverages", "ImagingFrequency", "ImagedNucleus",
    "EchoNumbers", "MagneticFieldStrength", "SpacingBetweenSlices", "NumberOfPhaseEncodingSteps", "EchoTrainLength",
    "PercentSampling", "PercentPhaseFieldOfView", "PixelBandwidth", "ReconstructionDiameter", "AcquisitionMatrix",
    "InPlanePhaseEncodingDirection", "FlipAngle", "VariableFlipAngleFlag", "TransmitCoilType", "DiffusionBValue",
    "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "TemporalPositionIdentifier", "NumberOfTemporalPositions",
    "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation", "ImagesInAcquisition",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "BurnedInAnnotation", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    # Enhanced MR images (PS3.3 A.36.2)
    "EffectiveEchoTime", "EchoPulseSequence", "FrameType", "TemporalPositionIndex", "StackID",
    "InStackPositionNumber", "DimensionIndexValues", "DimensionIndexPointer", "FunctionalGroupPointer",
    "DimensionOrganizationType", "ContentQualification", "ResonantNucleus", "KSpaceFiltering",
    "PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique", "ComplexImageComponent",
    "AcquisitionContrast", "PresentationLUTShape",
})  # fmt: skip
#: Sequences whose items are cleaned in the same way; all others are gone.
KEPT_SEQUENCES = frozenset({
    *FUNCTIONAL_GROUP_SEQUENCES, *CONVERTED_SEQUENCES,
    "MRTimingAndRelatedParametersSequence", "MREchoSequence", "PixelMeasuresSequence",
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "MRImageFrameTypeSequence", "MRImagingModifierSequence", "MRAveragesSequence", "MRDiffusionSequence",
    "FrameContentSequence", "FrameVOILUTSequence", "DimensionOrganizationSequence", "DimensionIndexSequence",
})  # fmt: skip
#: Replaced by the keyed digest of what they were.
REPLACED_UIDS = frozenset({
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "DimensionOrganizationUID",
})  # fmt: skip
#: A valid image must have these; they are empty.
EMPTIED_KEYWORDS = (
    "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
    "PositionReferenceIndicator",
)  # fmt: skip
MIN_KEY_BYTES = 32


def deidentify(dataset: Dataset, key: bytes) -> Dataset:
    """Return a new image with the pixels of another and nothing that says whose it is.

    Args:
        dataset: An MR image as `parse_file` gives it.
        key: Secret of at least 32 bytes. The same key gives the same patient, study and series the same new
            identifiers, so that scans of one patient stay together; without it nobody can compute them.

    Raises:
        RefusedError: The image says that it has text burned in.
        DicomReadError: No MR image, or its pixels cannot be used.
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a key needs {MIN_KEY_BYTES} bytes")
    if text_of(dataset, "SOPClassUID") not in MR_IMAGE_CLASSES:
        raise DicomReadError("Not an MR image.")
    if (text_of(dataset, "BurnedInAnnotation") or "NO").upper() != "NO":
        raise RefusedError("The image says that text is burned into it.", "Clean its pixels first.")
    clean = _cleaned(header_of(dataset), key)
    pseudonym = pseudonym_of(dataset, key)
    clean.PatientName, clean.PatientID = pseudonym, pseudonym
    for keyword in EMPTIED_KEYWORDS:
        setattr(clean, keyword, "")
    clean.PatientIdentityRemoved, clean.LongitudinalTemporalInformationModified = "YES", "REMOVED"
    clean.DeidentificationMethod = "cfmri: listed attributes kept, all others removed"
    clean.DeidentificationMethodCodeSequence = [
        code_item("113100", "DCM", "Basic Application Confidentiality Profile")
    ]  # PS3.16 CID 7050
    _set_pixels(clean, dataset)
    _set_file_meta(clean)
    return clean


def pseudonym_of(dataset: Dataset, key: bytes) -> str:
    """Return the new name and identifier of an image's patient: the study's where the patient has none."""
    patient = text_of(dataset, "PatientID") or text_of(dataset, "StudyInstanceUID") or ""
    return f"P{digest(key, 'patient', patient)[:12]}"


def digest(key: bytes, *parts: str) -> str:
    """Return 64 hex digits that nobody can compute without the key."""
    return hmac.new(key, "\n".join(parts).encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _cleaned(dataset: Dataset, key: bytes) -> Dataset:
    clean = Dataset()
    for element in readable_elements(dataset):
        keyword = element.keyword
        if element.tag == SYNTHETIC_DATA and str(element.value) in ("YES", "NO"):
            clean.add(element)
        elif element.VR not in _dictionary_vrs(keyword):
            continue  # a sequence, say, where a number belongs: it could hold anything
        elif keyword in KEPT_KEYWORDS:
            clean.add(element)
        elif keyword in KEPT_SEQUENCES:
            clean.add_new(element.tag, "SQ", [_cleaned(item, key) for item in element.value])
        elif keyword in REPLACED_UIDS and element.value:
            clean.add_new(element.tag, "UI", deterministic_uid("export", digest(key, "uid", str(element.value))))
    return clean


def _dictionary_vrs(keyword: str) -> tuple[str, ...]:
    """Return the value representations that the standard gives an attribute."""
    try:
        return tuple(dictionary_VR(keyword).split(" or "))
    except KeyError:
        return ()


def _set_pixels(clean: Dataset, dataset: Dataset) -> None:
    """Write the decoded values: nothing that hides behind or between them comes along."""
    values = stored_values(dataset)
    size = values.dtype.itemsize
    clean.add_new("PixelData", "OB" if size == 1 else "OW", _padded(np.ascontiguousarray(values)))
    clean.BitsAllocated = 8 * size


def _padded(values: NDArray[Any]) -> bytes:
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return content + b"\0" * (len(content) % 2)


def _set_file_meta(clean: Dataset) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = clean.SOPClassUID, clean.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.file_meta, clean.is_little_endian, clean.is_implicit_VR = meta, True, False
