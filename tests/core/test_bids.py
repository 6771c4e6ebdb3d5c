"""BIDS datasets: images of one contrast, inherited sidecars, labels from derivatives."""

import json

import numpy as np
import pytest

from cfmri_core.data.bids import survey_bids
from cfmri_core.data.studies import list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.volume import Volume

SHAPE = (9, 8, 5)
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])


def image(path, sidecar=None):
    write_nifti(path, Volume(np.random.default_rng(1).random(SHAPE).astype(np.float32), AFFINE), sidecar)
    return path


def labels(path, shape=SHAPE, affine=AFFINE):
    write_nifti(path, Volume((np.indices(shape).sum(axis=0) % 3).astype(np.uint8), affine), None)
    return path


@pytest.fixture
def dataset(tmp_path):
    """One patient with one session folder less, one with two sessions."""
    (tmp_path / "T1w.json").write_text(json.dumps({"Manufacturer": "SIEMENS", "FlipAngle": 12, "EchoTime": 0.0014}))
    image(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", {"FlipAngle": 10})
    for session in ("a", "b"):
        image(tmp_path / "sub-02" / f"ses-{session}" / "anat" / f"sub-02_ses-{session}_T1w.nii.gz")
    labels(tmp_path / "derivatives" / "people" / "sub-01" / "anat" / "sub-01_desc-tissue_dseg.nii.gz")
    return tmp_path


def test_sessions_are_studies_of_one_patient(dataset):
    studies = list_studies(dataset)
    assert [study.subject_id for study in studies] == ["sub-01_T1w", "sub-02_ses-a_T1w", "sub-02_ses-b_T1w"]
    assert [study.patient for study in studies] == ["sub-01", "sub-02", "sub-02"]
    training, validation = load_slices(studies, 16).split(0.5, seed=0)
    assert not set(training.patients) & set(validation.patients)


def test_sidecars_are_inherited_and_the_nearest_wins(dataset):
    (dataset / "sub-02" / "sub-02_T1w.json").write_text('{"EchoTime": 0.002}')
    (dataset / "sub-02" / "sub-02_T2w.json").write_text('{"EchoTime": 0.09}')
    first, second, _ = (study.acquisition for study in list_studies(dataset))
    assert (first.flip_angle_deg, first.echo_time_ms, first.manufacturer) == (10, 1.4, "SIEMENS")
    assert (second.flip_angle_deg, second.echo_time_ms) == (12, 2.0)
    assert load_slices(list_studies(dataset), 16).parameters[1] == second


def test_labels_come_from_derivatives(dataset):
    studies = list_studies(dataset)
    assert [study.labels_path is not None for study in studies] == [True, False, False]
    assert set(load_slices(studies[:1], 16, with_labels=True).labels.unique().tolist()) == {0, 1, 2}


def test_labels_of_an_image_that_says_more_are_not_given_to_another(dataset):
    image(dataset / "sub-01" / "anat" / "sub-01_acq-hires_T1w.nii.gz")
    folder = dataset / "derivatives" / "people" / "sub-01" / "anat"
    (folder / "sub-01_desc-tissue_dseg.nii.gz").rename(folder / "sub-01_acq-hires_dseg.nii.gz")
    assert {study.subject_id: study.labels_path is not None for study in list_studies(dataset)[:2]} == {
        "sub-01_T1w": False, "sub-01_acq-hires_T1w": True,
    }  # fmt: skip


def test_one_labels_file_too_many_is_said(dataset):
    labels(dataset / "derivatives" / "other" / "sub-01" / "anat" / "sub-01_dseg.nii.gz")
    (remark,) = survey_bids(dataset).remarks
    assert "several files fit" in remark.message
    assert list_studies(dataset)[0].labels_path is None


def test_other_contrasts_and_contrast_agent_are_left_out_with_a_reason(dataset):
    image(dataset / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    image(dataset / "sub-01" / "anat" / "sub-01_ce-gadolinium_T1w.nii.gz")
    image(dataset / "sub-01" / "anat" / "sub-01_desc-breast_mask.nii.gz")
    catalogue = survey_bids(dataset)
    assert len(catalogue.studies) == 3
    said = {remark.subject_id: remark.message for remark in catalogue.left_out}
    assert "T1w" in said["sub-01_T2w"]
    assert "contrast agent" in said["sub-01_ce-gadolinium_T1w"]


def test_without_t1w_the_most_frequent_contrast_is_listed(tmp_path):
    for name in ("sub-01_VIBE", "sub-02_VIBE", "sub-02_T2w"):
        image(tmp_path / name[:6] / "anat" / f"{name}.nii.gz")
    assert [study.subject_id for study in list_studies(tmp_path)] == ["sub-01_VIBE", "sub-02_VIBE"]


def test_a_dataset_of_nothing_usable_says_why(tmp_path):
    image(tmp_path / "sub-01" / "anat" / "sub-01_ce-gd_T1w.nii.gz")
    with pytest.raises(RequestError, match="no usable study: 1 left out: Taken after contrast agent"):
        list_studies(tmp_path)


def test_a_folder_that_is_not_bids_gives_nothing(tmp_path):
    image(tmp_path / "anat" / "sub-01_T1w.nii.gz")
    assert survey_bids(tmp_path).studies == ()
