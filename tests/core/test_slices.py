import numpy as np
import pytest
import torch
from monai.transforms import Resize
from phantoms import affine_of, orientations

from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.slices import IntensityScale, SliceStack, normalised_images, slab
from cfmri_core.volume import Volume


def ramp(shape=(12, 10, 6)):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_scale_maps_percentiles_and_back():
    voxels = ramp()
    scale = IntensityScale.of(voxels)
    normalised = scale.normalise(voxels)
    assert np.percentile(normalised, [10, 99]) == pytest.approx([0, 1], abs=1e-6)
    assert np.allclose(scale.restore(normalised), voxels, atol=1e-3)


def test_mostly_air_still_has_a_scale():
    voxels = np.zeros((50, 50, 4), np.float32)
    voxels[:2, :2] = 7
    assert IntensityScale.of(voxels).high == 7


def test_constant_image_is_refused():
    with pytest.raises(GeometryError, match="constant"):
        IntensityScale.of(np.ones((3, 3, 3)))


@pytest.mark.parametrize("directions", list(orientations()))
def test_axial_view_is_the_same_for_every_storage_order(directions):
    """Rows run to the back and columns to the left, however the voxels are stored."""
    affine = affine_of(directions, spacing=(1.0, 1.0, 1.0))
    shape = (5, 6, 7)
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    axis = int(np.flatnonzero(np.abs(directions[2]))[0])
    volume = Volume(np.zeros(shape, np.float32), affine)
    stack = SliceStack.of_axis(volume, 32, axis)
    right, front = (stack.native(world[..., w]) for w in (0, 1))
    assert np.all(np.diff(front, axis=1) < 0)
    assert np.all(np.diff(right, axis=2) < 0)


@pytest.mark.parametrize("directions", list(orientations()))
def test_native_view_is_undone_exactly(directions):
    volume = Volume(ramp(), affine_of(directions))
    stack = SliceStack.of(volume, 32)
    assert np.array_equal(stack.voxels(stack.native(volume.voxels)), volume.voxels)


def test_slices_lie_across_the_widest_spacing_and_the_last_axis_on_a_tie():
    voxels = ramp()
    assert SliceStack.of(Volume(voxels, np.diag([1.0, 3.0, 1.0, 1.0])), 32).slice_axis == 1
    assert SliceStack.of(Volume(voxels, np.eye(4)), 32).slice_axis == 2


def test_images_keep_the_aspect_ratio_and_come_back():
    volume = Volume(ramp((64, 32, 3)), np.diag([1.0, 1.0, 4.0, 1.0]))
    images, stack, _ = normalised_images(volume, 32)
    assert images.shape == (3, 1, 32, 32)
    assert stack.resized == (16, 32)
    assert float(images[:, :, :8].abs().max()) == 0.0
    assert stack.at_native_size(images).shape == (3, 1, 32, 64)


def test_stretched_images_fill_the_square_by_area_as_in_the_papers_code():
    volume = Volume(ramp((64, 40, 3)), np.diag([1.0, 1.0, 4.0, 1.0]))
    images, stack, scale = normalised_images(volume, 32, keeps_aspect=False)
    assert stack.resized == (32, 32)
    native = scale.normalise(np.asarray(stack.native(volume.voxels)))
    assert np.allclose(images[:, 0].numpy(), np.asarray(Resize((32, 32))(native)), atol=1e-6)
    assert stack.at_native_size(images).shape == (3, 1, 40, 64)
    assert np.allclose(stack.at_native_size(images)[:, 0], native, atol=0.05)


def test_labels_are_resampled_to_labels():
    volume = Volume((ramp((64, 32, 3)) % 3).astype(np.uint8), np.diag([1.0, 1.0, 4.0, 1.0]))
    stack = SliceStack.of(volume, 32)
    assert set(stack.label_images(np.asarray(stack.native(volume.voxels))).unique().tolist()) <= {0, 1, 2}


def test_a_mask_smaller_than_a_pixel_is_laid_out_where_it_lies():
    volume = Volume(ramp((64, 32, 3)), np.diag([1.0, 1.0, 4.0, 1.0]))
    stack = SliceStack.of(volume, 16)
    large = np.zeros(volume.shape, bool)
    large[8:24, 8:24, 2] = True
    for corner in range(4):
        mask = large.copy()
        mask[20 + corner, 12, 1] = True
        slices = np.ascontiguousarray(stack.native(mask))
        images = stack.mask_images(slices)
        assert images.flatten(1).sum(dim=1).tolist() == [0, 1, 16]
        assert torch.equal(images[2], stack.label_images(slices.astype(np.uint8))[2] > 0)
        at_native = stack.voxels(stack.at_native_size(images[:, None].float())[:, 0])[:, :, 1]
        assert np.argwhere(at_native == at_native.max()).mean(axis=0) == pytest.approx((20 + corner, 12), abs=3)


def test_slab_stays_in_place():
    volume = Volume(ramp(), affine_of(np.eye(3)))
    part = slab(volume, 2, 2, 4)
    assert np.array_equal(part.voxels, volume.voxels[:, :, 2:4])
    assert part.affine[:3, 3] == pytest.approx(volume.affine[:3, 3] + 2 * volume.affine[:3, 2])


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 3), (4, 2), (0, 7)])
def test_slices_that_do_not_exist_are_refused(first, last):
    with pytest.raises(RequestError, match="0:6"):
        slab(Volume(ramp(), np.eye(4)), 2, first, last)
