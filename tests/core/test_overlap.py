import shutil

import pytest

from cfmri_core.data.catalogue import Study
from cfmri_core.data.overlap import data_digest, require_disjoint, scan_digest
from cfmri_core.errors import RequestError


def scan(folder, name, content, **other):
    path = folder / name / "dicom"
    path.mkdir(parents=True)
    (path / "IM0001.dcm").write_bytes(content)
    return Study(name, path, **other)


def test_different_scans_of_the_same_name_are_different(tmp_path):
    require_disjoint([scan(tmp_path / "a", "sub-0001", b"1")], [scan(tmp_path / "b", "sub-0001", b"2")])


def test_a_copy_of_a_training_scan_is_no_test_scan(tmp_path):
    one = scan(tmp_path / "a", "sub-0001", b"1")
    shutil.copytree(tmp_path / "a" / "sub-0001", tmp_path / "b" / "other")
    with pytest.raises(RequestError, match="1 scans are in the training and in the test data"):
        require_disjoint([one], [Study("other", tmp_path / "b" / "other" / "dicom")])


def test_two_sessions_of_a_patient_are_not_split(tmp_path):
    first, second = (scan(tmp_path, f"ses-{n}", b"%d" % n, patient_id="sub-01") for n in (1, 2))
    with pytest.raises(RequestError, match="1 patients are in the training and in the test data"):
        require_disjoint([first], [second])


def test_a_set_is_known_again_in_any_order(tmp_path):
    studies = [scan(tmp_path, f"sub-{n}", b"%d" % n) for n in range(3)]
    assert data_digest(studies) == data_digest(studies[::-1]) != data_digest(studies[:2])


def test_a_scan_that_is_not_there_is_known_by_its_place(tmp_path):
    assert scan_digest(Study("a", tmp_path / "x" / ".." / "a")) == scan_digest(Study("a", tmp_path / "a"))
