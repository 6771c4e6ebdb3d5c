"""Tissue labels as a DICOM segmentation object."""

from __future__ import annotations

import copy
import hashlib
import logging
import warnings
from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from cfmri_core import __version__
from cfmri_core.dicom.derive import box_in, encoded
from cfmri_core.dicom.headers import decimal_string
from cfmri_core.dicom.parser import SYNTHETIC_DATA, number_of, parser_errors, text_of
from cfmri_core.dicom.provenance import FIRST_SERIES_NUMBER, NOT_FOR_DIAGNOSIS, deterministic_uid
from cfmri_core.dicom.read import Series
from cfmri_core.errors import GeometryError
from cfmri_core.io.atomic import atomic_file
from cfmri_core.volume import Volume

TISSUE = Code("85756007", "SCT", "Tissue")
BREAST = Code("76752008", "SCT", "Breast")
#: Segment number -> label and type (PS3.16 CID 7163, Breast Segmentation Types); 0 is background and no segment.
SEGMENTS = {
    1: ("fat", Code("89749009", "SCT", "Fatty tissue of breast")),
    2: ("fibroglandular tissue", Code("1342375003", "SCT", "Breast fibroglandular tissue")),
}
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")
AUTOMATIC, SEMIAUTOMATIC = "AUTOMATIC", "SEMIAUTOMATIC"
_TITLES = {AUTOMATIC: "Tissue labels by cfmri", SEMIAUTOMATIC: "Tissue labels by cfmri and a reader"}
ALGORITHM_NAME = "cfmri tissue segmenter"
SERIES_NUMBER = FIRST_SERIES_NUMBER + 1000

# highdicom's warnings and log lines quote patient names and identifiers.
warnings.filterwarnings("ignore", module=r"highdicom(\.|$)")
logging.getLogger("highdicom").setLevel(logging.CRITICAL)

#: Patient and study attributes highdicom expects to be there (Type 2). It takes some of their values only, though what
#: an archive knows a patient by must stay as it is: it is given none, and the source's are put back.
_EXPECTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
#: Left out for highdicom, which wants all three or none, and put back likewise.
_COMPRESSION = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_segmentation(path: Path, source: Series, labels: Volume, algorithm_type: str = AUTOMATIC) -> Path:
    """Write labels as one binary DICOM SEG on the slices of a series.

    Args:
        path: The file to write.
        source: The series that was segmented.
        labels: 0 background, 1 fat, 2 fibroglandular tissue; on the source's grid or a box of it.
        algorithm_type: `AUTOMATIC` as the model made them, `SEMIAUTOMATIC` as a reader corrected or confirmed them.

    Returns:
        The file.

    Raises:
        GeometryError: The labels do not lie on the source's grid, or hold other values.
        DicomReadError: The source's header has what cannot be written.
        ResourceError: The place cannot be written.
    """
    path = Path(path)
    frames = _frames(source, labels)
    headers = [_completed(header, source.volume.spacing_mm[2]) for header in source.headers]
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    series = str(headers[0].SeriesInstanceUID)
    identity = (digest, series, algorithm_type, __version__)
    with parser_errors(source.path):
        segmentation = highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=frames,
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_description(number, algorithm_type) for number in SEGMENTS],
            series_instance_uid=deterministic_uid("segmentation series", *identity),
            series_number=SERIES_NUMBER,
            sop_instance_uid=deterministic_uid("segmentation", *identity),
            instance_number=1,
            manufacturer="cfmri",
            manufacturer_model_name=ALGORITHM_NAME,
            software_versions=__version__,
            device_serial_number=__version__,
            content_label="TISSUE",
            series_description=f"{_TITLES[algorithm_type]} {NOT_FOR_DIAGNOSIS}",
        )
        _keep_from_source(segmentation, source.headers[0])
        if source.frame_numbers:
            _refer_to_frames(segmentation, source)
        content = encoded(segmentation)
    with atomic_file(path) as partial:
        partial.write_bytes(content)
    return path


def _frames(source: Series, labels: Volume) -> NDArray[np.uint8]:
    """Return the labels on the whole source grid, uint8, shape ``(slices, rows, columns)``."""
    if not np.isin(labels.voxels, (0, *SEGMENTS)).all():
        raise GeometryError(f"Labels other than 0 and {', '.join(map(str, SEGMENTS))} cannot be written.")
    whole = np.zeros(source.volume.shape, dtype=np.uint8)
    first = box_in(source.volume, labels)
    whole[tuple(slice(start, start + size) for start, size in zip(first, labels.shape, strict=True))] = labels.voxels
    return np.ascontiguousarray(whole.T)


def _completed(header: Dataset, spacing_mm: float) -> Dataset:
    """Return a header that highdicom takes for a single slice, with the attributes it expects.

    Args:
        header: Of the source's slice.
        spacing_mm: Distance of its slices.
    """
    completed = Dataset()
    for element in header:
        is_empty_sequence = element.VR == "SQ" and not element.value
        if element.keyword not in ("NumberOfFrames", *_COMPRESSION) and not is_empty_sequence:
            completed.add(copy.copy(element))
    for keyword in _EXPECTED:
        setattr(completed, keyword, None)
    if not 0 < (number_of(header, "SliceThickness") or 0) < np.inf:
        completed.SliceThickness = decimal_string(spacing_mm)  # labels fill their voxels, whatever the scan sampled
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not text_of(completed, keyword):
            setattr(completed, keyword, deterministic_uid(keyword, str(header.SeriesInstanceUID)))
    return completed


def _description(number: int, algorithm_type: str) -> highdicom.seg.SegmentDescription:
    label, kind = SEGMENTS[number]
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=TISSUE,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues(algorithm_type),
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=ALGORITHM_NAME, family=ARTIFICIAL_INTELLIGENCE, version=__version__
        ),
        anatomic_regions=[BREAST],
        tracking_uid=None,
        tracking_id=None,
    )


def _keep_from_source(segmentation: Dataset, header: Dataset) -> None:
    """Copy whose it is and how texts are read, and the marks of a synthetic or a lossy source."""
    for keyword in (*_EXPECTED, *_COMPRESSION, "SpecificCharacterSet"):
        if keyword in header:
            segmentation.add(copy.copy(header[keyword]))
    if SYNTHETIC_DATA in header:
        segmentation.add_new(SYNTHETIC_DATA, "CS", header[SYNTHETIC_DATA].value)


def _refer_to_frames(segmentation: Dataset, source: Series) -> None:
    """Name the source frame of each segmentation frame; the slices were given one by one, as if classic."""
    numbers = {
        tuple(float(value) for value in header.ImagePositionPatient): number
        for header, number in zip(source.headers, source.frame_numbers, strict=True)
    }
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        position = tuple(float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient)
        for derivation in group.get("DerivationImageSequence") or []:
            for item in derivation.SourceImageSequence:
                item.ReferencedFrameNumber = numbers[position]
    segmentation.SourceImageSequence = segmentation.SourceImageSequence[:1]
    for referenced in segmentation.ReferencedSeriesSequence:
        referenced.ReferencedInstanceSequence = referenced.ReferencedInstanceSequence[:1]
