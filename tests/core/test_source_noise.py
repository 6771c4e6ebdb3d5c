"""Noise of magnitude images about a zero that is not no signal."""

import pytest
import torch

from cfmri_core.pipeline.source_noise import SourceNoise

TISSUE, SIGMA = 0.8, 0.05


@pytest.fixture(scope="module")
def scan():
    """A block of tissue in air with noise, normalised: the slices, the same without noise, and what 0 stands for."""
    signal = torch.zeros(8, 1, 64, 64)
    signal[..., 16:48, 16:48] = TISSUE
    generator = torch.Generator().manual_seed(0)
    real, imaginary = (SIGMA * torch.randn(signal.shape, generator=generator) for _ in range(2))
    magnitude = torch.sqrt((signal + real) ** 2 + imaginary**2)
    tenth = float(torch.quantile(magnitude.flatten(), 0.1))
    return magnitude - tenth, signal, tenth


def without_noise(signal, tenth):
    """What a network makes of tissue on the scale of a noisy scan, if air is to be no darker than 0."""
    return (signal - tenth).clamp(min=0)


def test_the_level_is_found_in_tissue(scan):
    images, signal, tenth = scan
    shown = without_noise(signal, tenth)
    noise = SourceNoise.measured(images, shown, tenth)
    assert noise.level == pytest.approx(SIGMA, rel=0.05)
    assert noise.floor == pytest.approx(tenth)


def test_without_noise_air_lies_as_far_below_tissue_as_the_signal_says(scan):
    images, signal, tenth = scan
    shown = without_noise(signal, tenth)
    removed = SourceNoise.measured(images, shown, tenth).changed(shown, 1.0, "remove", 0, 0)
    contrast = removed[..., 30, 30].mean() - removed[..., 4, 4].mean()
    assert contrast == pytest.approx(TISSUE, abs=0.003)


def test_new_noise_makes_air_what_it_was(scan):
    images, signal, tenth = scan
    shown = without_noise(signal, tenth)
    renewed = SourceNoise.measured(images, shown, tenth).changed(shown, 1.0, "renew", 1, 0)
    for quantile in (0.1, 0.3, 0.9):
        wanted = float(torch.quantile(images.flatten(), quantile))
        assert float(torch.quantile(renewed.flatten(), quantile)) == pytest.approx(wanted, abs=0.01)


def test_scaled_noise_is_as_much_as_asked_for(scan):
    images, signal, tenth = scan
    shown = without_noise(signal, tenth)
    noise = SourceNoise.measured(images, shown, tenth)
    less = noise.changed(shown, 0.5, "scale", 0, 0) - noise.changed(shown, 0.5, "remove", 0, 0)
    assert torch.allclose(less, 0.5 * noise.noise, atol=1e-6)
    same = noise.changed(shown, 1.0, "scale", 0, 0)
    assert torch.allclose(same, images, atol=1e-6)


def test_tissue_at_the_tenth_percentile_is_no_noise(scan):
    images, signal, tenth = scan
    shown = without_noise(signal, tenth)
    assert SourceNoise.measured(images, shown, 0.4).floor == pytest.approx(SIGMA, rel=0.05)
