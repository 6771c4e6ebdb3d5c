import json

import numpy as np
import pydicom
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.simulation.study import OTHER_MANUFACTURER, StudyPlan, simulate_dataset, simulate_study

PLAN = StudyPlan(
    changes={"manufacturer": "GE MEDICAL SYSTEMS", "echo_time_ms": 2.4},
    paired={"other": OTHER_MANUFACTURER, "short": {"echo_time_ms": 1.4}, "named": "siemens-trio-3t"},
    slab_mm=12,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    simulate_dataset(root, 2, 50, PLAN)
    return root


def test_the_series_reads_back_with_its_parameters(root):
    scan = read_scan(root / "sub-0001" / "dicom")
    written = json.loads((root / "sub-0001" / "study.json").read_text())["parameters"]
    assert scan.acquisition.parameters == AcquisitionParameters(**written)
    assert scan.acquisition.parameters.echo_time_ms == 2.4
    assert scan.volume.has_same_grid(read_nifti(root / "sub-0001" / "labels.nii.gz"))


def test_every_file_says_that_it_is_synthetic(root):
    for path in root.rglob("*.dcm"):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert dataset[0x0008001C].value == "YES"
        assert "SIMULATED" in dataset.SeriesDescription


def test_pairs_show_the_same_anatomy_under_their_own_parameters(root):
    study = root / "sub-0001"
    source = read_scan(study / "dicom")
    short = read_scan(study / "paired" / "short" / "dicom")
    assert short.acquisition.parameters.echo_time_ms == 1.4
    assert short.volume.has_same_grid(source.volume)
    assert np.corrcoef(short.volume.voxels.ravel(), source.volume.voxels.ravel())[0, 1] > 0.9
    other = json.loads((study / "paired" / "other" / "study.json").read_text())["parameters"]
    assert other["manufacturer"] == "SIEMENS"


def test_the_truth_is_the_noise_free_pair(root):
    pair = root / "sub-0001" / "paired" / "named"
    noisy, truth = read_scan(pair / "dicom").volume, read_nifti(pair / "truth.nii.gz")
    assert noisy.has_same_grid(truth)
    assert 0 < np.std(noisy.voxels - truth.voxels) < 0.2 * np.std(truth.voxels)


def test_the_same_seed_writes_the_same_pixels(root, tmp_path):
    again = simulate_study(tmp_path / "sub-0001", 51, PLAN)
    assert np.array_equal(
        read_scan(again / "dicom").volume.voxels, read_scan(root / "sub-0001" / "dicom").volume.voxels
    )


def test_a_complete_subject_is_kept(root):
    before = (root / "sub-0001" / "study.json").stat().st_mtime_ns
    simulate_dataset(root, 2, 50, PLAN)
    assert (root / "sub-0001" / "study.json").stat().st_mtime_ns == before


def test_an_unknown_target_leaves_nothing(tmp_path):
    with pytest.raises(RequestError, match="nonsense"):
        simulate_study(tmp_path / "sub-0001", 1, StudyPlan(paired={"x": "nonsense"}, slab_mm=12))
    assert list(tmp_path.iterdir()) == []


def test_no_subject_is_refused(tmp_path):
    with pytest.raises(RequestError, match="0 subjects"):
        simulate_dataset(tmp_path, 0, 1, PLAN)


def test_studies_are_listed_and_loaded(root):
    studies = list_studies(root)
    assert [study.subject_id for study in studies] == ["sub-0001", "sub-0002"]
    assert set(studies[0].paired) == {"other", "short", "named"}
    slices = load_slices(studies, 32, with_labels=True)
    assert slices.images.shape[1:] == (1, 32, 32)
    assert slices.labels.shape == (len(slices.images), 32, 32)
    second = slices.of_subjects([1])
    assert len(second.parameters) == 1
    assert set(second.subject.tolist()) == {0}


def test_a_folder_without_studies_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no study"):
        list_studies(tmp_path)
    with pytest.raises(RequestError, match="not a folder"):
        list_studies(tmp_path / "absent")
