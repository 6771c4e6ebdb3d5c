import random

import museum
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantoms import affine_of, distinct_voxels, save, slice_dataset
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from cfmri_core.dicom.peek import KEYWORDS, peek_parsed, peek_plain
from cfmri_core.errors import DicomReadError

VOXELS, AFFINE = distinct_voxels(), affine_of(museum.np.eye(3))


def outcome(read, path):
    """Return what a reader says of a file, ``None`` where it refuses or passes."""
    try:
        return read(path)
    except DicomReadError:
        return None


def assert_plain_is_parsed_or_nothing(path):
    """An object that is no image may be told apart before its damage is seen: it is left out in any case."""
    plain, parsed = outcome(peek_plain, path), outcome(peek_parsed, path)
    assert plain is None or plain == parsed or (parsed is None and plain.pixel_bytes is None)


def test_what_the_index_needs_is_read_without_pydicom(tmp_path):
    museum.seeds(tmp_path)
    for number in (0, 1, 2, 3, 4, 8, 9, 10, 11):
        path = tmp_path / f"seed{number}"
        assert peek_plain(path) == peek_parsed(path)
    for number in (5, 6, 7):  # big endian, enhanced
        path = tmp_path / f"seed{number}"
        assert peek_plain(path) is None
        assert peek_parsed(path).pixel_bytes > 0


def test_enhanced_image_gives_one_header_per_frame(tmp_path):
    frames = peek_parsed(museum.write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE, (1.5, 4.0))).frames
    assert len(frames) == 8
    assert [frame["EchoTime"] for frame in frames] == ["1.5"] * 4 + ["4"] * 4


def test_private_block_of_any_length_is_stepped_over(tmp_path):
    dataset = slice_dataset(VOXELS, AFFINE, 0)
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", bytes(300_000))
    path = save(tmp_path / "x.dcm", dataset)
    assert peek_plain(path).pixel_bytes == 70
    path.write_bytes(path.read_bytes()[:-30])
    assert peek_plain(path).pixel_bytes is None
    assert peek_plain(path) == peek_parsed(path)


TEXTS = {
    "ScanOptions": st.lists(st.sampled_from(["PFP", "FS", "", "FAST GEMS"]), max_size=3),
    "Manufacturer": st.text(st.characters(codec="latin-1", exclude_characters="\\"), max_size=20),
    "EchoTime": st.floats(0, 1e4).map(lambda value: f"{value:.6g}"),
    "FlipAngle": st.sampled_from(["10", "10.", " 10 ", "1e1", "+10", ""]),
    "AcquisitionNumber": st.sampled_from(["1", " 2", "+3", ""]),
    "Rows": st.integers(0, 65535),
    "DiffusionBValue": st.floats(0, 1e4),
    "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192", "ISO_IR 13", "", "nonsense"]),
    "ImageType": st.lists(st.sampled_from(["ORIGINAL", "DERIVED", "M"]), max_size=3),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=TEXTS), st.booleans(), st.booleans(), st.integers(0, 3))
def test_valid_files_read_the_same_both_ways(tmp_path, attributes, is_implicit, is_open_ended, depth):
    dataset = slice_dataset(VOXELS, AFFINE, 0)
    with pydicom.config.disable_value_validation():
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        item = Dataset()
        for _ in range(depth):
            outer = Dataset()
            outer.ReferencedImageSequence = [item, item]
            outer["ReferencedImageSequence"].is_undefined_length = is_open_ended
            item.is_undefined_length_sequence_item = is_open_ended
            item = outer
        dataset.update(item)
        path = tmp_path / "x.dcm"
        if is_implicit:
            museum.as_syntax(path, dataset, ImplicitVRLittleEndian)
        else:
            save(path, dataset)
    assert_plain_is_parsed_or_nothing(path)


def test_damaged_files_never_give_more_than_pydicom_does(tmp_path):
    rng, path = random.Random(7), tmp_path / "mutant.dcm"
    seeds = museum.seeds(tmp_path)
    for number in range(600):
        path.write_bytes(museum.mutated(seeds[number % len(seeds)], rng))
        assert_plain_is_parsed_or_nothing(path)


def test_every_real_file_reads_the_same_both_ways(real_dicom):
    files = [path for path in real_dicom.rglob("*") if path.is_file() and path.stat().st_size < 150_000]
    for path in files:
        assert_plain_is_parsed_or_nothing(path)
    assert sum(outcome(peek_plain, path) is not None for path in files) > 0.8 * len(files)


def test_pipe_is_refused_at_once(tmp_path):
    museum.hostile_tree(tmp_path)
    for name in ("pipe.dcm", "zero.dcm"):
        with pytest.raises(DicomReadError, match="not a regular file"):
            peek_plain(tmp_path / name)


def test_no_name_or_date_is_asked_for():
    assert not {"PatientName", "PatientBirthDate", "StudyDate", "SeriesDescription"} & set(KEYWORDS)
