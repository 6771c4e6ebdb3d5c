"""What is kept as a label, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from cfmri_server.images import write_image
from cfmri_server.labels import read_label
from cfmri_server.problem import FieldError

from cfmri_core.errors import DicomReadError, GeometryError
from cfmri_core.volume import Volume

GRID = np.array([[0.7, 0, 0, -30], [0, 0.9, 0, 12], [0, 0, 2.5, 80], [0, 0, 0, 1.0]])


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "Doe-John.nii.gz"
    write_image(path, Volume(np.arange(60, dtype=np.float32).reshape(3, 4, 5), GRID))
    return path


def label_file(folder, voxels, affine=GRID, extension=".nii.gz"):
    path = folder / f"label{extension}"
    write_image(path, Volume(np.asarray(voxels), affine))
    return path


def filled(*values, dtype=np.uint8):
    voxels = np.zeros((3, 4, 5), dtype)
    voxels.ravel()[: len(values)] = values
    return voxels


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_labels_on_the_grid_of_their_image_are_kept(image, tmp_path, extension, dtype):
    for tag, values in (("final", (1, 2)), ("lesion", (1, 2, 7)), ("draft", (99,))):
        path = label_file(tmp_path, filled(*values, dtype=dtype), extension=extension)
        assert read_label(path, image, tag).voxels.max() == max(values)


@pytest.mark.parametrize(("tag", "accepted"), [("final", "0 to 2"), ("lesion", "0 to 255")])
@pytest.mark.parametrize("value", [-1, 0.5, 77.5, 300])
def test_values_that_mean_nothing_are_refused(image, tmp_path, tag, accepted, value):
    path = label_file(tmp_path, filled(value, dtype=np.float32))
    with pytest.raises(FieldError) as refused:
        read_label(path, image, tag)
    assert accepted in refused.value.accepted
    assert str(value) in refused.value.value
    assert read_label(path, image, "draft").voxels.ravel()[0] == value


def test_a_value_that_is_no_tissue_is_refused(image, tmp_path):
    with pytest.raises(FieldError):
        read_label(label_file(tmp_path, filled(3)), image, "final")


@pytest.mark.parametrize("tag", ["final", "lesion", "draft"])
def test_labels_of_another_grid_are_refused(image, tmp_path, tag):
    shifted = GRID + np.array([[0, 0, 0, 50]] + 3 * [[0, 0, 0, 0]])
    for voxels, affine in ((filled(1), shifted), (np.zeros((9, 9, 9), np.uint8), GRID)):
        with pytest.raises(GeometryError):
            read_label(label_file(tmp_path, voxels, affine), image, tag)


def test_training_reads_no_label_of_a_part(image, tmp_path):
    path = label_file(tmp_path, filled(1)[:, :, :2])
    assert read_label(path, image, "draft").shape == (3, 4, 2)
    with pytest.raises(GeometryError):
        read_label(path, image, "final")


def test_what_cannot_be_read_is_refused_without_a_path(image, tmp_path):
    (tmp_path / "label.nii.gz").write_bytes(b"garbage")
    with pytest.raises(DicomReadError) as refused:
        read_label(tmp_path / "label.nii.gz", image, "final")
    assert str(tmp_path) not in str(refused.value)
    good = label_file(tmp_path, filled(1))
    image.write_bytes(b"garbage")
    with pytest.raises(DicomReadError) as refused:
        read_label(good, image, "final")
    assert "Doe" not in str(refused.value)
