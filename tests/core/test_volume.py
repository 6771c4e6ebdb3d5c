import numpy as np
import pytest

from cfmri_core.errors import GeometryError
from cfmri_core.volume import Volume


def test_spacing_is_the_length_of_the_columns():
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    assert Volume(np.zeros((2, 3, 4), np.float32), affine).spacing_mm == (2.0, 3.0, 4.0)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (0, 3, 4)])
def test_not_three_axes_is_refused(shape):
    with pytest.raises(GeometryError, match="shape"):
        Volume(np.zeros(shape, np.float32), np.eye(4))


@pytest.mark.parametrize(
    "affine", [np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0, 1.0]), np.full((4, 4), np.nan), np.eye(3)]
)
def test_bad_affine_is_refused(affine):
    with pytest.raises(GeometryError, match="affine"):
        Volume(np.zeros((2, 2, 2), np.float32), affine)


def test_nan_is_refused():
    with pytest.raises(GeometryError, match="NaN"):
        Volume(np.full((2, 2, 2), np.nan, np.float32), np.eye(4))


def test_same_grid_looks_at_the_far_corner():
    voxels = np.zeros((100, 2, 2), np.float32)
    rotated = np.eye(4)
    rotated[1, 0] = 2e-5
    assert Volume(voxels, np.eye(4)).has_same_grid(Volume(voxels, np.eye(4)))
    assert not Volume(voxels, np.eye(4)).has_same_grid(Volume(voxels, rotated))


def test_values_of_another_shape_are_refused():
    with pytest.raises(GeometryError, match="do not fit"):
        Volume(np.zeros((2, 2, 2), np.float32), np.eye(4)).with_voxels(np.zeros((2, 2, 3), np.float32))
