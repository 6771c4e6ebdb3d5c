import json

import numpy as np
import pydicom
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.pairs import paired_parameters
from cfmri_core.data.studies import list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.simulation.protocols import OTHER_MANUFACTURER
from cfmri_core.simulation.study import StudyPlan, simulate_dataset, simulate_study

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


def test_subjects_of_two_plans_are_not_mixed(root):
    other = StudyPlan(changes=PLAN.changes, paired=PLAN.paired, slab_mm=10)
    for seed, plan in ((51, PLAN), (50, other)):
        with pytest.raises(RequestError, match="another seed or plan"):
            simulate_dataset(root, 2, seed, plan)


def test_pairs_can_keep_a_parameter_of_the_source(tmp_path):
    plan = StudyPlan(paired={"other": "decorrelated", "same": "same"}, kept=("slice_thickness_mm",), slab_mm=5)
    simulate_dataset(tmp_path, 1, 3, plan)
    study = list_studies(tmp_path)[0]
    source, other = paired_parameters(study.paired["same"]), paired_parameters(study.paired["other"])
    assert other.slice_thickness_mm == source.slice_thickness_mm
    assert other.echo_time_ms != source.echo_time_ms


def test_other_builds_are_drawn_on_request(tmp_path):
    for name, varied in (("drawn", False), ("varied", True)):
        simulate_dataset(tmp_path / name, 4, 3, StudyPlan(slab_mm=5, varied=varied))
    drawn, varied = (
        [read_nifti(study.labels_path).voxels for study in list_studies(tmp_path / name)]
        for name in ("drawn", "varied")
    )
    assert any(not np.array_equal(one, other) for one, other in zip(drawn, varied, strict=True))


def test_an_unknown_target_leaves_nothing(tmp_path):
    with pytest.raises(RequestError, match="nonsense"):
        simulate_study(tmp_path / "sub-0001", 1, StudyPlan(paired={"x": "nonsense"}, slab_mm=12))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slab_mm", [float("nan"), -5.0, 0.0, 1e9])
def test_an_extent_that_cannot_be_is_refused(tmp_path, slab_mm):
    with pytest.raises(RequestError, match="slab"):
        simulate_dataset(tmp_path, 1, 1, StudyPlan(slab_mm=slab_mm))


def test_a_seed_below_zero_is_refused(tmp_path):
    with pytest.raises(RequestError, match="seed"):
        simulate_dataset(tmp_path, 1, -3, PLAN)


def test_a_fixed_scanner_model_has_its_own_manufacturer(tmp_path):
    folder = simulate_study(tmp_path / "sub-0001", 1, StudyPlan(changes={"manufacturer_model": "Avanto"}, slab_mm=6))
    parameters = paired_parameters(folder)
    assert (parameters.manufacturer, parameters.manufacturer_model) == ("SIEMENS", "Avanto")


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


def noise_correlation(first, second, truth):
    """Where there is signal: in air the noise of a magnitude image has a mean of its own."""
    bright = truth > np.median(truth)
    return np.corrcoef((first - truth)[bright], (second - truth)[bright])[0, 1]


def test_the_same_parameters_give_a_second_scan_and_the_noise_free_source(tmp_path):
    plan = StudyPlan(protocol="decorrelated", paired={"same": "same", "any": "decorrelated*2"}, slab_mm=6)
    study = simulate_study(tmp_path / "sub-0001", 9, plan)
    described = json.loads((study / "study.json").read_text())
    same = json.loads((study / "paired" / "same" / "study.json").read_text())
    assert same["parameters"] == described["parameters"]
    assert (described["protocol"], same["target"], same["setting"]) == ("decorrelated", "same", "default")
    truth, again = (read_nifti(study / path).voxels for path in ("truth.nii.gz", "paired/same/truth.nii.gz"))
    assert np.array_equal(truth, again)
    first, second = (read_scan(study / path).volume.voxels for path in ("dicom", "paired/same/dicom"))
    assert abs(noise_correlation(first, second, truth)) < 0.05
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in study.rglob("0001.dcm")}
    assert len(uids) == 4


def test_renderings_of_one_subject_share_no_noise(tmp_path):
    study = simulate_study(tmp_path / "s", 9, StudyPlan(paired={"a": "same*2"}, slab_mm=6))
    truth = read_nifti(study / "truth.nii.gz").voxels
    first, second = (read_scan(study / "paired" / name / "dicom").volume.voxels for name in ("a-1", "a-2"))
    assert abs(noise_correlation(first, second, truth)) < 0.05


def test_another_setting_is_declared_and_looks_otherwise(root, tmp_path):
    shifted = StudyPlan(changes=PLAN.changes, setting="shifted", slab_mm=12)
    simulate_dataset(tmp_path / "shifted", 1, 50, shifted)
    study = json.loads((tmp_path / "shifted" / "sub-0001" / "study.json").read_text())
    default = json.loads((root / "sub-0001" / "study.json").read_text())
    assert (study["setting"], default["setting"]) == ("shifted", "default")
    assert study["parameters"] == default["parameters"]
    assert study["note"] != default["note"]
    assert json.loads((tmp_path / "shifted" / "dataset.json").read_text())["setting"] == "shifted"
    one, other = (read_scan(f / "sub-0001" / "dicom").volume.voxels for f in (root, tmp_path / "shifted"))
    assert np.abs(one - other).max() > 20


def test_an_unknown_setting_is_refused(tmp_path):
    with pytest.raises(RequestError, match="'other' is not a simulator setting"):
        simulate_study(tmp_path / "s", 1, StudyPlan(setting="other", slab_mm=6))


def test_a_changed_share_is_the_same_subject_under_the_same_protocol(tmp_path):
    (folder,) = simulate_dataset(tmp_path, 1, 77, StudyPlan(paired={"more": "share:0.2"}, slab_mm=6))
    own, changed = (json.loads((one / "study.json").read_text()) for one in (folder, folder / "paired" / "more"))
    assert changed["parameters"] == own["parameters"]
    assert changed["target"] == "share:0.2"
    before, after = (
        (read_nifti(one / "labels.nii.gz").voxels == 2).sum() for one in (folder, folder / "paired" / "more")
    )
    assert after == pytest.approx(1.2 * before, rel=0.03)


def test_a_rendering_of_another_anatomy_is_no_pair_of_the_scan(tmp_path):
    simulate_dataset(tmp_path, 1, 77, StudyPlan(paired={"more": "share:0.2", "again": "same"}, slab_mm=6))
    (study,) = list_studies(tmp_path)
    assert (list(study.paired), list(study.changed)) == (["again"], ["more"])


LESIONED = StudyPlan(paired={"without-lesion": "without-lesions"}, lesions=1, enhanced=True, slab_mm=16)


@pytest.fixture(scope="module")
def lesioned(tmp_path_factory):
    return simulate_study(tmp_path_factory.mktemp("lesioned") / "sub-0001", 299001, LESIONED)


def test_a_lesion_has_a_mask_and_a_twin_without_it(lesioned):
    mask = read_nifti(lesioned / "lesion.nii.gz").voxels > 0
    with_lesion = read_nifti(lesioned / "truth.nii.gz").voxels
    without = read_nifti(lesioned / "paired" / "without-lesion" / "truth.nii.gz").voxels
    assert 5 < mask.sum() < 1500
    assert with_lesion[mask].mean() > 1.2 * without[mask].mean()
    far = np.ones(mask.shape, bool)
    i, j, _ = np.argwhere(mask).mean(axis=0).astype(int)
    far[max(i - 20, 0) : i + 20, max(j - 20, 0) : j + 20] = False
    assert np.abs(with_lesion - without)[far].max() < 0.02 * with_lesion.max()
    same = json.loads((lesioned / "paired" / "without-lesion" / "study.json").read_text())["parameters"]
    assert same == json.loads((lesioned / "study.json").read_text())["parameters"]


def test_what_is_invented_of_lesions_and_agent_is_said(lesioned):
    note = json.loads((lesioned / "study.json").read_text())["note"]
    assert "Invented: lesions" in note
    assert "concentration in each tissue invented" in note


def test_a_study_with_a_lesion_mask_is_listed_with_it(lesioned):
    (study,) = list_studies(lesioned.parent)
    assert study.lesion_path == lesioned / "lesion.nii.gz"
