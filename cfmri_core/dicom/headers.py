"""Acquisition parameters from DICOM headers, classic and enhanced multi-frame alike."""

from __future__ import annotations

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from cfmri_core.acquisition import PARAMETERS, AcquisitionRecord, AttributeSource, Parameter, usable
from cfmri_core.dicom.parser import integer_of, items_of, number_of, text_of
from cfmri_core.errors import DicomReadError

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
LEGACY_CONVERTED_ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.4"
MULTI_FRAME_CLASSES = frozenset({ENHANCED_MR_IMAGE, LEGACY_CONVERTED_ENHANCED_MR_IMAGE})
MR_IMAGE_CLASSES = frozenset({MR_IMAGE}) | MULTI_FRAME_CLASSES

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: JPEG baseline and extended, JPEG-LS near-lossless, JPEG 2000 lossy.
LOSSY_TRANSFER_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91"}
)

#: More frames in one object are refused.
MAX_FRAMES = 65_536

#: Functional group -> {attribute in the group: the classic attribute that means the same} (PS3.3 C.8.13.5).
FUNCTIONAL_GROUPS: dict[str, dict[str, str]] = {
    "MRTimingAndRelatedParametersSequence": {
        "FlipAngle": "FlipAngle",
        "RepetitionTime": "RepetitionTime",
        "EchoTrainLength": "EchoTrainLength",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "PixelMeasuresSequence": {
        "PixelSpacing": "PixelSpacing",
        "SliceThickness": "SliceThickness",
        "SpacingBetweenSlices": "SpacingBetweenSlices",
    },
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelValueTransformationSequence": {"RescaleSlope": "RescaleSlope", "RescaleIntercept": "RescaleIntercept"},
    "MRImageFrameTypeSequence": {"FrameType": "ImageType"},
    "MRImagingModifierSequence": {"PixelBandwidth": "PixelBandwidth"},
    "MRAveragesSequence": {"NumberOfAverages": "NumberOfAverages"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "FrameContentSequence": {"TemporalPositionIndex": "TemporalPositionIdentifier"},
}
#: Functional groups of converted classic images: classic attributes that have no place elsewhere (PS3.3 C.7.6.16.2).
CONVERTED_SEQUENCES = (
    "UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence",
)  # fmt: skip
#: EchoPulseSequence of enhanced images -> ScanningSequence of classic ones.
SCANNING_SEQUENCES = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}
FUNCTIONAL_GROUP_SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def read_acquisition(dataset: Dataset) -> AcquisitionRecord:
    """Read the acquisition parameters of one image, or of the first frame of an enhanced one.

    Times are milliseconds, as in DICOM; field strength becomes nominal and keeps its raw value in the
    source. What is absent, empty, zero or out of range is unknown. Names of makers and models are kept
    as written: their spelling varies between systems, and matching them is the models' business.
    """
    found = {}
    for parameter in PARAMETERS:
        candidates = _candidates(dataset, parameter)
        if candidates:
            best = next((c for c in candidates if usable(parameter, c.raw) is not None), candidates[0])
            found[parameter.name] = (best, best.raw)
    return AcquisitionRecord.from_texts(found)


def header_of(dataset: Dataset) -> Dataset:
    """Return the public attributes that can be decoded, those in sequences included, without pixel data.

    Pixels of a lossy transfer syntax leave their mark here: LossyImageCompression becomes ``01``.
    """
    header = _public(dataset)
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "")
    if syntax in LOSSY_TRANSFER_SYNTAXES:
        header.LossyImageCompression = "01"
    return header


def frame_headers(dataset: Dataset) -> list[Dataset]:
    """Return one classic header per frame, without functional groups and pixels.

    A classic image gives itself. Of an enhanced image each frame gets the root attributes and those of
    its functional groups under their classic names (`FUNCTIONAL_GROUPS`), per-frame before shared, and what it has kept
    of the classic images it was converted from.

    Raises:
        DicomReadError: The number of frames is nonsense, or differs from that of the functional groups.
    """
    if text_of(dataset, "SOPClassUID") not in MULTI_FRAME_CLASSES:
        return [dataset]
    frames = _functional_groups(dataset)
    shared = (items_of(dataset, FUNCTIONAL_GROUP_SEQUENCES[0]) or [Dataset()])[0]
    root = [element for element in readable_elements(dataset) if element.keyword not in FUNCTIONAL_GROUP_SEQUENCES]
    return [_flattened(root, shared, frame) for frame in frames]


def readable_elements(dataset: Dataset) -> list[DataElement]:
    """Return the elements that can be decoded; pydicom raises only when a damaged one is looked at."""
    elements = []
    for tag in list(dataset.keys()):
        try:
            elements.append(dataset[tag])
        except Exception:  # noqa: S112 - any exception type means: this element is damaged
            continue
    return elements


def decimal_string(value: float) -> str:
    """Format a number as a DICOM decimal string: as many digits as fit into 16 characters."""
    for digits in range(17, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} cannot be written as a decimal string")


def attribute_name(keyword: str) -> str:
    """Return a keyword with its tag: ``EchoTime (0018,0081)``."""
    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04x},{tag & 0xFFFF:04x})"


def _public(dataset: Dataset) -> Dataset:
    """Copy without private attributes and pixels, in sequences too."""
    public = Dataset()
    for element in readable_elements(dataset):
        if element.tag.is_private or element.keyword in PIXEL_KEYWORDS:
            continue
        if element.VR == "SQ":
            public.add_new(element.tag, "SQ", [_public(item) for item in element.value])
        else:
            public.add(element)
    return public


def _candidates(dataset: Dataset, parameter: Parameter) -> list[AttributeSource]:
    places = [(dataset, "", parameter.keyword)]
    groups = [item for sequence in FUNCTIONAL_GROUP_SEQUENCES for item in items_of(dataset, sequence)[:1]]
    for group in groups:
        for sequence, classic_names in FUNCTIONAL_GROUPS.items():
            keywords = [keyword for keyword, classic in classic_names.items() if classic == parameter.keyword]
            places += [(item, f"{sequence}.", k) for k in keywords for item in items_of(group, sequence)[:1]]
        places += [(item, f"{s}.", parameter.keyword) for s in CONVERTED_SEQUENCES for item in items_of(group, s)[:1]]
    sources = []
    for place, prefix, keyword in places:
        text = text_of(place, keyword)
        if text is not None:
            sources.append(AttributeSource(prefix + attribute_name(keyword), text))
    return sources


def _functional_groups(dataset: Dataset) -> list[Dataset]:
    frames = items_of(dataset, FUNCTIONAL_GROUP_SEQUENCES[1])
    count = integer_of(dataset, "NumberOfFrames") or 1
    if not 1 <= count <= MAX_FRAMES:
        raise DicomReadError(f"The image claims {count} frames; up to {MAX_FRAMES} are accepted.")
    if frames and len(frames) != count:
        raise DicomReadError(f"The image has {count} frames but functional groups for {len(frames)}.")
    return frames or [Dataset() for _ in range(count)]


def _flattened(root: list[DataElement], shared: Dataset, frame: Dataset) -> Dataset:
    header = Dataset()
    for element in root:
        header.add(element)
    pulse_sequence = text_of(header, "EchoPulseSequence")
    if pulse_sequence in SCANNING_SEQUENCES and "ScanningSequence" not in header:
        header.ScanningSequence = SCANNING_SEQUENCES[pulse_sequence]
    for group in (shared, frame):
        for sequence, classic_names in FUNCTIONAL_GROUPS.items():
            for item in items_of(group, sequence)[:1]:
                _copy_attributes(item, header, classic_names)
        converted = [item for sequence in CONVERTED_SEQUENCES for item in items_of(group, sequence)[:1]]
        for element in (element for item in converted for element in readable_elements(item)):
            if element.tag not in header:
                header.add(element)
    return header


def _copy_attributes(item: Dataset, header: Dataset, classic_names: dict[str, str]) -> None:
    for keyword, classic in classic_names.items():
        text = text_of(item, keyword)
        if text is None:
            continue
        if dictionary_VR(keyword) == "FD":
            value = number_of(item, keyword) or 0.0
            setattr(header, classic, value if dictionary_VR(classic) == "FD" else decimal_string(value))
        else:
            setattr(header, classic, text.split("\\") if "\\" in text else text)
