"""Studies as arrays: labels on the scan's grid, slices kept, parameters from the best source, catalogue in lines."""

import numpy as np
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.catalogue import Catalogue, Remark
from cfmri_core.data.studies import Study, list_studies, load_slices, read_labels, survey
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.volume import Volume

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])


def study(folder, voxels, labels=None, labels_affine=AFFINE, **known):
    write_nifti(folder / "a.nii.gz", Volume(voxels.astype(np.float32), AFFINE), {"FlipAngle": 10, "EchoTime": 0.002})
    if labels is not None:
        write_nifti(folder / "labels.nii.gz", Volume(labels, labels_affine), None)
    path = folder / "labels.nii.gz" if labels is not None else None
    return Study("a", folder / "a.nii.gz", path, acquisition=AcquisitionParameters(**known) if known else None)


def image(slices=6):
    return np.random.default_rng(0).random((8, 7, slices)) + 1


def test_what_the_study_knows_outranks_the_header(tmp_path):
    (parameters,) = load_slices([study(tmp_path, image(), echo_time_ms=1.4)], 8).parameters
    assert (parameters.echo_time_ms, parameters.flip_angle_deg) == (1.4, 10.0)


def test_every_slice_is_kept_even_empty_ones_at_the_ends(tmp_path):
    voxels = image()
    voxels[:, :, [0, 5]] = 0
    assert len(load_slices([study(tmp_path, voxels)], 8).images) == 6


def test_slices_are_padded_to_the_square_or_stretched_over_it_with_their_labels(tmp_path):
    voxels = image()[:, :4]
    scans = [study(tmp_path, voxels, np.ones(voxels.shape, np.uint8))]
    padded, stretched = (load_slices(scans, 8, keeps_aspect=keeps, with_labels=True) for keeps in (True, False))
    assert (int((padded.labels[1] == 1).sum()), int((stretched.labels[1] == 1).sum())) == (32, 64)
    assert (int((padded.images[1] != 0).sum()), int((stretched.images[1] != 0).sum())) == (32, 64)


def test_empty_slices_are_dropped_where_most_are_and_it_is_said(tmp_path):
    voxels, said = image(9), []
    voxels[:, :, :5] = 0
    labels = np.zeros(voxels.shape, np.uint8)
    labels[:, :, 6] = 2
    slices = load_slices(
        [study(tmp_path, voxels, labels)], 8, with_labels=True, progress=lambda *step: said.append(step[2])
    )
    assert len(slices.images) == len(slices.labels) == len(slices.subject) == 4
    assert slices.labels.amax(dim=(1, 2)).tolist() == [0, 2, 0, 0]
    assert said == ["a (5 empty slices dropped)"]


def test_labels_in_another_orientation_are_turned_not_refused(tmp_path):
    labels = (np.arange(8 * 7 * 6).reshape(8, 7, 6) % 3).astype(np.uint8)
    flipped = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1.0]])
    one = study(tmp_path, image(), labels[:, :, ::-1].copy(), flipped)
    volume = Volume(np.zeros((8, 7, 6), np.float32), AFFINE)
    assert np.array_equal(read_labels(one, volume).voxels, labels)
    assert read_labels(one, volume).has_same_grid(volume)


@pytest.mark.parametrize(
    ("labels", "affine", "message"),
    [
        (np.ones((8, 7, 3), np.uint8), AFFINE, r"\(8, 7, 3\) voxels, not \(8, 7, 6\)"),
        (np.ones((8, 7, 6), np.uint8), np.diag([1.0, 1.0, 4.0, 1.0]), "another grid"),
        (np.full((8, 7, 6), 3, np.uint8), AFFINE, "labels 3 to 3"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(tmp_path, labels, affine, message):
    one = study(tmp_path, image(), labels, affine)
    with pytest.raises(RequestError, match=message):
        load_slices([one], 8, with_labels=True)


def test_a_flat_folder_is_listed_without_remarks(tmp_path):
    study(tmp_path, image())
    assert [one.subject_id for one in list_studies(tmp_path)] == ["a"]
    assert survey(tmp_path).lines() == []


def test_scans_of_a_flat_folder_that_bids_names_give_to_one_subject_are_of_one_patient(tmp_path):
    names = ("sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02", "other_1")
    for name in names:
        (tmp_path / f"{name}.nii.gz").touch()
    assert {one.subject_id: one.patient for one in list_studies(tmp_path)} == dict(
        zip(names, ("sub-01", "sub-01", "sub-02", "other_1"), strict=True)
    )


def test_lines_name_every_study_once():
    remarks = (
        Remark("No pre-contrast series.", "p1", is_left_out=True),
        Remark("Table and header disagree.", "p2", "2.4, 1.3"),
        Remark("No pre-contrast series.", "p3", is_left_out=True),
        Remark("No table."),
    )
    assert Catalogue((), remarks).lines() == [
        "2 left out: No pre-contrast series. [p1, p3]",
        "Table and header disagree. [p2 (2.4, 1.3)]",
        "No table.",
    ]


def test_an_image_that_shows_nothing_is_named(tmp_path):
    path = tmp_path / "flat.nii.gz"
    write_nifti(path, Volume(np.full((8, 8, 3), 7.0, np.float32), np.eye(4)), None)
    with pytest.raises(GeometryError, match=r"flat.nii.gz: The image is constant"):
        load_slices([Study("flat", path)], 16)
