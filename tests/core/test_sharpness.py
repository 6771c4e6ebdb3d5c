"""Power by spatial frequency, and images with some of it given back."""

import pytest
import torch
import torch.nn.functional as F

from cfmri_core.models.sharpness import BANDS, band_power, sharpened


@pytest.fixture
def images():
    return torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def test_the_bands_hold_all_power(images):
    power = band_power(images[:, 0])
    assert power.shape == (BANDS,)
    assert (power > 0).all()
    # Parseval: the transform is not normalised.
    assert float(power.sum()) == pytest.approx(64**2 * float(images.square().sum()), rel=1e-5)


def test_no_gain_changes_nothing(images):
    torch.testing.assert_close(sharpened(images, torch.zeros(BANDS)), images)


def test_what_a_blur_took_is_given_back(images):
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    before, after = band_power(images[:, 0]), band_power(blurred[:, 0])
    # Beyond a third of a cycle per pixel this blur leaves next to nothing.
    gain = (0.5 * torch.log(before / after)).clamp(max=1.2).float()
    again = band_power(sharpened(blurred, gain)[:, 0])
    assert (0.5 * torch.log(before / again)).abs()[:3].max() < 0.1
    assert (again > after).all()
