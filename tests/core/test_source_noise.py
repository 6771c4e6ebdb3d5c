"""Noise of magnitude images about a zero that is not no signal."""

import numpy as np
import pytest
import torch

from cfmri_core.pipeline.source_noise import SourceNoise, renewed_finer_noise
from cfmri_core.slices import SliceStack
from cfmri_core.volume import Volume

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


def shown(signal, tenth):
    """What a network makes of tissue on the scale of a noisy scan: air is no darker than 0."""
    return (signal - tenth).clamp(min=0)


def measured(scan):
    images, signal, tenth = scan
    return SourceNoise.measured(images, shown(signal, tenth), tenth)


def test_the_level_is_found_in_tissue(scan):
    assert measured(scan).level == pytest.approx(SIGMA, rel=0.05)
    assert measured(scan).floor == pytest.approx(scan[2])


@pytest.mark.parametrize("brightness", [0.5, 1.0, 2.0])
def test_without_noise_air_lies_as_far_below_tissue_as_the_signal_says(scan, brightness):
    _, signal, tenth = scan
    removed = measured(scan).removed(shown(brightness * signal, tenth))
    assert float(removed[..., 30, 30].mean() - removed[..., 4, 4].mean()) == pytest.approx(
        brightness * TISSUE, abs=0.005
    )
    assert float(removed[..., 4, 4].mean()) == pytest.approx(-tenth)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("way", ["renewed", "scaled"])
def test_noise_becomes_that_of_another_scan(scan, ratio, way):
    _, signal, tenth = scan
    generator = torch.Generator().manual_seed(7)
    real, imaginary = (ratio * SIGMA * torch.randn(signal.shape, generator=generator) for _ in range(2))
    other = torch.sqrt((1.5 * signal + real) ** 2 + imaginary**2) - tenth
    clean = shown(1.5 * signal, tenth)
    made = measured(scan).scaled(clean, ratio) if way == "scaled" else measured(scan).renewed(clean, ratio, 1, 0)
    for part in (signal > 0, signal == 0):
        assert float(made[part].mean()) == pytest.approx(float(other[part].mean()), abs=0.01)
        assert float(made[part].std()) == pytest.approx(float(other[part].std()), rel=0.08)


def test_noise_of_the_source_is_scaled_to_the_source_itself(scan):
    images, signal, tenth = scan
    assert torch.allclose(measured(scan).scaled(shown(signal, tenth), 1.0), images, atol=1e-6)


def test_slices_of_air_alone_get_the_noise_of_air(scan):
    images, _, tenth = scan
    air = images[..., :12]
    noise = SourceNoise.measured(air, torch.zeros_like(air), tenth)
    assert noise.level == pytest.approx(SIGMA, rel=0.3)
    assert float(noise.renewed(torch.zeros_like(air), 1.0, 0, 0).mean()) == pytest.approx(float(air.mean()), abs=0.02)


def test_tissue_at_the_tenth_percentile_is_no_noise(scan):
    images, signal, tenth = scan
    assert SourceNoise.measured(images, shown(signal, tenth), 0.4).floor == pytest.approx(SIGMA, rel=0.05)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_finer_noise_is_drawn_at_its_level_and_out_of_the_networks_sight(ratio):
    volume = Volume(np.random.default_rng(0).random((96, 96, 4)).astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    stack = SliceStack.of(volume, 32)
    drawn = renewed_finer_noise(np.zeros((4, 96, 96), np.float32), 0.04, stack, ratio=ratio, seed=0, first_slice=2)
    assert drawn.std() == pytest.approx(0.04 * ratio, rel=0.01)
    assert float(stack.images(drawn).std()) < 0.2 * drawn.std()  # of white noise a third is left
    one = renewed_finer_noise(np.zeros((1, 96, 96), np.float32), 0.04, stack, ratio=ratio, seed=0, first_slice=3)
    assert np.corrcoef(one.ravel(), drawn[1].ravel())[0, 1] > 0.999
