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


def test_noise_that_the_network_does_not_see_goes_and_lines_stay():
    rng = np.random.default_rng(2)
    clean = np.full((96, 96, 2), 400.0)
    clean[:, 60:] = 0.0  # air
    clean[::12, 30:60] = 700.0  # lines of one pixel
    noisy = np.abs(clean + 20 * rng.standard_normal(clean.shape)).astype(np.float32)
    volume = Volume(noisy, np.diag([1.0, 1.0, 3.0, 1.0]))
    images, stack, scale = normalised_images(volume, 48)
    native = scale.normalise(np.asarray(stack.native(noisy)))
    line, flat = np.zeros_like(clean, bool), np.zeros_like(clean, bool)
    line[::12, 32:58], flat[4:-4, 4:26] = True, True
    line, flat = (np.asarray(stack.native(one)) for one in (line, flat))
    seen = stack.at_native_size(images)[:, 0]

    def edited(factor):
        return native + change_at_native_size(native, images, images.clone(), stack, lambda noise, *_: factor * noise)

    without, halved = edited(0.0), edited(0.5)
    assert (without - seen)[flat].std() < 0.5 * (native - seen)[flat].std()
    assert without[line].mean() - without[flat].mean() > 0.95 * (native[line].mean() - native[flat].mean())
    np.testing.assert_allclose(native - halved, 0.5 * (native - without), atol=1e-6)
