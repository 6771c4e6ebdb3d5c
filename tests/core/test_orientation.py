import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from phantoms import affine_of, orientations

from cfmri_core.models.orientation import AXES, check_axes, turned
from cfmri_core.slices import SliceStack
from cfmri_core.volume import Volume


def test_cfmris_own_layout_is_left_alone():
    images = torch.rand(2, 1, 4, 4)
    assert turned(images, "PL") is images


def test_turning_twice_changes_nothing():
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(turned(turned(images, "RA"), "RA"), images)


@pytest.mark.parametrize("directions", [one for one in orientations() if abs(one[2][2]) == 1])
def test_ra_is_what_the_papers_code_gives_the_network(directions):
    """There: `Orientation(axcodes='RA')` of one axial slice, first array axis = first voxel axis."""
    affine = affine_of(directions, spacing=(1.0, 1.0, 3.0))
    voxels = np.random.default_rng(0).random((6, 6, 2), dtype=np.float32)
    slices = SliceStack.of(Volume(voxels, affine), 6)
    ours = turned(torch.from_numpy(slices.native(voxels).copy())[:, None], "RA")
    for number in range(2):
        theirs = Orientation(axcodes="RA")(MetaTensor(voxels[None, :, :, number], affine=affine))
        assert np.array_equal(ours[number].numpy(), theirs.numpy())


def test_unknown_layout_is_refused():
    for axes in AXES:
        check_axes(axes)
    with pytest.raises(ValueError, match="axes is 'LPS'"):
        check_axes("LPS")
