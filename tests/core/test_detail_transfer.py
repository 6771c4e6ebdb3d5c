import numpy as np
import pytest
import torch

from cfmri_core.pipeline.detail_transfer import change_at_native_size
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume


@pytest.fixture
def scan():
    """Native slices of 64 x 64 with detail of one pixel, seen at 32 x 32."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(0, 900, (8, 8, 3)), np.ones((8, 8, 1)))
    volume = Volume((blocks + 50 * rng.standard_normal((64, 64, 3))).astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    images, stack, scale = normalised_images(volume, 32)
    return scale.normalise(np.asarray(stack.native(volume.voxels))), images, stack


def test_no_edit_is_no_change(scan):
    native, images, stack = scan
    assert not change_at_native_size(native, images, images.clone(), stack).any()


def test_detail_follows_the_contrast_around_it(scan):
    native, images, stack = scan
    change = change_at_native_size(native, images, 2 * images, stack)
    error = np.std(change - native) / np.std(native)
    without_detail = np.std(stack.at_native_size(images)[:, 0] - native) / np.std(native)
    assert error < 0.3 * without_detail


def test_where_nothing_differs_detail_stays_as_it_is(scan):
    _, images, stack = scan
    flat = torch.full_like(images, 0.5)
    native = np.full((3, 64, 64), 0.5, np.float32)
    native[:, ::2] += 0.01
    np.testing.assert_allclose(change_at_native_size(native, flat, flat + 0.2, stack), 0.2, atol=1e-6)


def test_at_the_same_resolution_the_edit_is_taken_as_it_is():
    rng = np.random.default_rng(1)
    volume = Volume(rng.gamma(2.0, 100.0, (32, 32, 2)).astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    images, stack, scale = normalised_images(volume, 32)
    native = scale.normalise(np.asarray(stack.native(volume.voxels)))
    edited = torch.from_numpy(rng.random(images.shape, dtype=np.float32))
    change = change_at_native_size(native, images, edited, stack)
    np.testing.assert_allclose(native + change, edited[:, 0].numpy(), atol=1e-5)
