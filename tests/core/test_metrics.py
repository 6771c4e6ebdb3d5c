"""Metrics against cases with a known answer."""

import math

import numpy as np
import pytest

from cfmri_core.errors import GeometryError
from cfmri_core.evaluation import metrics

RNG = np.random.default_rng(1)


@pytest.fixture
def image():
    i, j, k = np.mgrid[:32, :24, :6]
    return (0.5 + 0.3 * np.sin(i / 4) * np.cos(j / 3) + 0.02 * k).astype(np.float32)


@pytest.fixture
def mask(image):
    inside = np.zeros(image.shape, dtype=bool)
    inside[4:28, 4:20] = True
    return inside


def test_psnr_of_a_constant_error_is_its_logarithm(image, mask):
    assert metrics.masked_psnr_db(image + 0.1, image, mask) == pytest.approx(20.0, abs=1e-4)


def test_psnr_looks_inside_the_mask_only(image, mask):
    damaged = np.where(mask, image, 7.0)
    assert metrics.masked_psnr_db(damaged, image, mask) == math.inf


def test_ssim_is_one_for_the_same_and_falls_with_noise(image, mask):
    noisy = image + 0.2 * RNG.standard_normal(image.shape)
    assert metrics.masked_ssim(image, image, mask) == pytest.approx(1.0)
    assert metrics.masked_ssim(noisy, image, mask) < 0.8


def test_ssim_agrees_with_scikit_image(image, mask):
    skimage = pytest.importorskip("skimage.metrics")
    noisy = image + 0.05 * RNG.standard_normal(image.shape).astype(np.float32)
    maps = [
        skimage.structural_similarity(
            image[:, :, k], noisy[:, :, k], data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )[1]
        for k in range(image.shape[2])
    ]  # fmt: skip
    expected = np.stack(maps, axis=2)[mask].mean()
    assert metrics.masked_ssim(noisy, image, mask) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.3])
def test_slope_is_the_share_of_the_change_that_was_made(image, mask, share):
    truth = image + 0.2 * np.sin(np.arange(32))[:, None, None]
    result = image + share * (truth - image)
    assert metrics.change_recovered_slope(result, image, truth, mask) == pytest.approx(share, abs=1e-5)


def test_z_jitter_sees_flicker_but_neither_a_trend_nor_noise(image, mask):
    trend = image + 0.05 * np.arange(6)
    assert metrics.z_jitter(trend, mask) == pytest.approx(0.0, abs=1e-6)
    assert metrics.z_jitter(trend + 0.05 * RNG.standard_normal(image.shape), mask) < 0.01
    assert metrics.z_jitter(trend + 0.05 * np.array([0, 1, 0, 1, 0, 1]), mask) == pytest.approx(0.05, abs=2e-3)
    assert math.isnan(metrics.z_jitter(image[:, :, :2], mask[:, :, :2]))


def test_excess_error_is_what_noise_does_not_explain(image, mask):
    second = image + 0.1 * RNG.standard_normal(image.shape)
    assert metrics.excess_rmse(image, second, image, mask) == 0.0
    assert metrics.excess_rmse(second + 0.2, second, image, mask) == pytest.approx(0.2, abs=0.02)


def test_contrast_error_is_the_missed_difference_of_tissues(image):
    labels = np.zeros(image.shape, np.uint8)
    labels[:8], labels[8:16] = 1, 2
    brighter = image + 0.3 + 0.1 * (labels == 2)
    assert metrics.contrast_error(brighter, image, labels) == pytest.approx(0.1, abs=1e-5)
    assert math.isnan(metrics.contrast_error(brighter, image, np.ones_like(labels)))
    assert metrics.tissue_means(np.full(image.shape, 2.0), labels) == {1: 2.0, 2: 2.0}


def test_slope_has_no_value_where_nothing_was_to_change(image, mask):
    assert math.isnan(metrics.change_recovered_slope(image, image, image, mask))


def test_jitter_is_the_spread_of_slice_gains(image, mask):
    gains = np.array([0.9, 1.1, 0.9, 1.1, 0.9, 1.1])
    assert metrics.slice_gain_jitter(image * 1.5 + 0.1, image, mask) == pytest.approx(0.0, abs=1e-5)
    assert metrics.slice_gain_jitter(image * gains, image, mask) == pytest.approx(0.1, abs=1e-4)


def test_dice_counts_overlap():
    first, second = np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4, 1), np.uint8)
    first[:2], second[1:3] = 1, 1
    assert metrics.dice(first, second, 1) == pytest.approx(0.5)
    assert math.isnan(metrics.dice(first, second, 2))


def test_other_grids_and_empty_masks_are_refused(image, mask):
    with pytest.raises(GeometryError, match="cannot be compared"):
        metrics.masked_psnr_db(image[1:], image, mask)
    with pytest.raises(GeometryError, match="mask is empty"):
        metrics.masked_psnr_db(image, image, np.zeros_like(mask))
    with pytest.raises(GeometryError):
        metrics.dice(np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3), np.uint8), 1)
