import copy
import csv
from pathlib import Path

import dicomanonymizer.simpledicomanonymizer as independent
import museum
import numpy as np
import pydicom
import pytest
from phantoms import affine_of, distinct_voxels, save, slice_dataset, write_converted, write_enhanced
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, RLELossless

from cfmri_core.dicom.deidentify import EMPTIED_KEYWORDS, KEPT_KEYWORDS, KEPT_SEQUENCES, deidentify
from cfmri_core.dicom.headers import read_acquisition
from cfmri_core.dicom.parser import parse_file
from cfmri_core.errors import DicomReadError, RefusedError

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
VOXELS, AFFINE = distinct_voxels(), affine_of(np.eye(3))
PROFILE = Path(__file__).resolve().parents[1] / "basic_profile.csv"
SENTINEL = "SENTINEL"
VALUES = {
    "AS": "042Y", "AT": 0x00100010, "CS": SENTINEL, "DA": "19451112", "DS": "45.1945", "DT": "19451112131415",
    "FD": 451.945, "FL": 451.945, "IS": "451945", "OB": b"SENTINEL", "OW": b"SENTINEL", "TM": "131415.1945",
    "UI": "1.2.3.451945", "UL": 451945, "US": 45194, "SL": 451945, "SS": 4519, "UN": b"SENTINEL", "OD": b"SENTINEL",
    "OF": b"SENTINEL", "OL": b"SENTINEL", "OV": b"SENTINEL", "SV": 451945, "UV": 451945,
}  # fmt: skip
NAMES = {"ISO_IR 192": "ŠENTINEL^Ünï", "ISO 2022 IR 87": "SENTINEL^山田"}


def basic_profile() -> dict[int, str]:
    """Return the action of every single attribute in table E.1-1."""
    with PROFILE.open(encoding="utf-8") as stream:
        rows = csv.DictReader(line for line in stream if not line.startswith("#"))
        return {int(row["tag"], 16): row["action"] for row in rows}


def tags_of(dataset: Dataset) -> set[int]:
    """Return every tag, those in sequences included."""
    nested = (tags_of(item) for element in dataset if element.VR == "SQ" for item in element.value)
    return {int(element.tag) for element in dataset}.union(*nested)


def with_every_profile_tag(character_set: str) -> Dataset:
    """Return an image that has every attribute of the profile at its root, and again inside sequences."""
    item = Dataset()
    for tag in basic_profile():
        if tag in DicomDictionary and tag >> 16 not in (0, 2, 0x7FE0):
            vr = dictionary_VR(tag).split(" or ")[0]
            inner = Dataset()
            inner.PatientComments = inner.CodeMeaning = SENTINEL
            item.add_new(tag, vr, [inner] if vr == "SQ" else VALUES.get(vr, SENTINEL))
    dataset = slice_dataset(VOXELS, AFFINE, 0)
    dataset.SpecificCharacterSet = character_set
    dataset.update(copy.deepcopy(item))
    dataset.PatientName = NAMES[character_set]
    for keyword in ("RequestAttributesSequence", "PixelMeasuresSequence", "FrameContentSequence"):
        setattr(dataset, keyword, [item])
    private = dataset.private_block(0x0029, SENTINEL, create=True)
    private.add_new(0x10, "LO", SENTINEL)
    dataset.add_new(0x60003000, "OW", SENTINEL.encode())
    dataset.add_new(0x60000022, "LO", SENTINEL)
    dataset.add_new(0x00181030, "LO", SENTINEL)
    return dataset


@pytest.fixture(params=NAMES)
def source(request, tmp_path):
    with pydicom.config.disable_value_validation():
        return parse_file(save(tmp_path / "source.dcm", with_every_profile_tag(request.param)))


def test_nothing_kept_is_in_the_basic_profile():
    profile = {keyword_for_tag(tag) for tag in basic_profile()}
    assert len(basic_profile()) > 600
    assert not profile & (KEPT_KEYWORDS | KEPT_SEQUENCES)


def test_no_tag_of_the_basic_profile_survives(source, tmp_path):
    clean = deidentify(source, KEY)
    pydicom.dcmwrite(tmp_path / "clean.dcm", clean, write_like_original=False)
    content = (tmp_path / "clean.dcm").read_bytes()
    assert (tmp_path / "source.dcm").read_bytes().count(b"SENTINEL") > 1000
    for value in (b"SENTINEL", b"451945", b"19451112", "山田".encode(), "山田".encode("iso2022_jp")[3:7]):
        assert value not in content
    actions = basic_profile()
    dataset = pydicom.dcmread(tmp_path / "clean.dcm")
    assert not {tag for tag in tags_of(dataset) if actions.get(tag) == "X"}
    for element in dataset.iterall():
        action = actions.get(int(element.tag))
        if action is not None:
            assert element.value != source.get(element.tag, Dataset()).value or not element.value
            is_new = element.keyword in ("PatientName", "PatientID") or "U" in action
            assert bool(element.value) == is_new or element.keyword in ("DeidentificationMethodCodeSequence",)
    assert set(EMPTIED_KEYWORDS) <= set(dataset.dir())


def test_independent_tool_finds_nothing_to_remove(source):
    """dicom-anonymizer has its own copy of the table: what it would change is identifiers, and those are new."""
    clean = deidentify(source, KEY)
    before = {int(element.tag): element.value for element in source}
    actions = independent.initialize_actions("dicomfields_2026c")
    numbers = {tag[0] << 16 | tag[1]: action for tag, action in actions.items() if len(tag) == 2}
    assert len(set(numbers) & tags_of(source)) > 550
    assert not {tag for tag in tags_of(clean) if numbers.get(tag) is independent.delete}
    for tag in set(numbers) & {int(element.tag) for element in clean}:
        assert clean[tag].value in ("", None) or clean[tag].value != before.get(tag)


def test_pixels_geometry_and_acquisition_stay(tmp_path):
    path = save(tmp_path / "x.dcm", slice_dataset(VOXELS, AFFINE, 1))
    clean = deidentify(parse_file(path), KEY)
    original = pydicom.dcmread(path)
    assert np.array_equal(clean.pixel_array, original.pixel_array)
    for keyword in ("ImagePositionPatient", "PixelSpacing", "EchoTime", "Manufacturer", "ScanOptions", "BitsStored"):
        assert clean[keyword] == original[keyword]
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"


def test_enhanced_image_keeps_its_frames(tmp_path):
    path = write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE)
    dataset = parse_file(path)
    dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence[0].FrameContentSequence[0].FrameAcquisitionDateTime = "19451112131415"
    clean = deidentify(dataset, KEY)
    assert len(clean.PerFrameFunctionalGroupsSequence) == 4
    assert 0x00189074 not in tags_of(clean)
    assert np.array_equal(clean.pixel_array, pydicom.dcmread(path).pixel_array)


def test_converted_image_keeps_its_parameters(tmp_path):
    path = write_converted(tmp_path / "c.dcm", VOXELS, AFFINE)
    clean = deidentify(parse_file(path), KEY)
    assert read_acquisition(clean).parameters.echo_time_ms == 2.81
    assert read_acquisition(clean).parameters == read_acquisition(parse_file(path)).parameters
    assert "1.2.99" not in str(clean)


def test_identifiers_depend_on_the_key_and_keep_scans_of_one_patient_together():
    first, second = (slice_dataset(VOXELS, AFFINE, k) for k in (0, 1))
    for dataset in (first, second):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID, dataset.is_little_endian = pydicom.uid.ExplicitVRLittleEndian, True
    one, two, other = deidentify(first, KEY), deidentify(second, KEY), deidentify(first, OTHER_KEY)
    assert one.PatientID == two.PatientID != other.PatientID
    assert one.SeriesInstanceUID == two.SeriesInstanceUID != other.SeriesInstanceUID
    assert len({one.SOPInstanceUID, two.SOPInstanceUID, other.SOPInstanceUID, first.SOPInstanceUID}) == 4
    with pytest.raises(ValueError, match="32 bytes"):
        deidentify(first, b"short")


def test_text_that_is_burned_in_and_other_objects_are_refused(tmp_path):
    dataset = parse_file(save(tmp_path / "x.dcm", slice_dataset(VOXELS, AFFINE, 0, {"BurnedInAnnotation": "YES"})))
    with pytest.raises(RefusedError, match="burned"):
        deidentify(dataset, KEY)
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(DicomReadError, match="Not an MR image"):
        deidentify(dataset, KEY)


def test_kept_attribute_of_a_foreign_type_is_dropped(tmp_path):
    path = save(tmp_path / "x.dcm", slice_dataset(VOXELS, AFFINE, 0))
    path.write_bytes(museum.with_bytes(path.read_bytes(), b"\x18\x00\x22\x00CS", b"\x18\x00\x22\x00LO"))
    assert "ScanOptions" not in deidentify(parse_file(path), KEY)


def test_overlays_in_the_spare_bits_of_compressed_pixels_stay_behind(tmp_path):
    stored = np.full((8, 8), 0x5ABC, dtype=np.uint16)
    path = museum.compressed(tmp_path / "source.dcm", slice_dataset(VOXELS, AFFINE, 0), stored, RLELossless)
    image = parse_file(path)
    image.BitsStored, image.HighBit = 12, 11
    clean = deidentify(image, KEY)
    assert np.array_equal(np.frombuffer(clean.PixelData, "<u2"), np.full(64, 0x0ABC))


def test_bytes_behind_the_pixels_and_the_preamble_stay_behind(tmp_path):
    path = save(tmp_path / "x.dcm", slice_dataset(VOXELS, AFFINE, 0))
    path.write_bytes(b"SENTINEL" + path.read_bytes()[8:] + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0SENTINEL")
    pydicom.dcmwrite(tmp_path / "clean.dcm", deidentify(parse_file(path), KEY), write_like_original=False)
    content = (tmp_path / "clean.dcm").read_bytes()
    assert content[:128] == bytes(128)
    assert b"SENTINEL" not in content
    assert PYDICOM_IMPLEMENTATION_UID.encode() in content
