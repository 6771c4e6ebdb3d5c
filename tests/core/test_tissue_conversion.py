"""Conversion of tissue in network images."""

import pytest
import torch

from cfmri_core.pipeline.tissue_conversion import converted

FAT, GLAND = 0.3, 0.9


@pytest.fixture
def slices():
    """A square of gland in a square of fat in air: images, gland and breast, twice."""
    breast, gland = torch.zeros(2, 1, 32, 32), torch.zeros(2, 1, 32, 32)
    breast[..., 6:26, 6:26], gland[..., 12:20, 12:20] = 1, 1
    return breast * (FAT + (GLAND - FAT) * gland), gland, breast


def test_fat_becomes_gland_and_gland_fat(slices):
    images, gland, breast = slices
    everywhere = torch.full_like(images, 9.0)
    change = converted(images, gland, breast, everywhere, torch.tensor([1.2, 0.8]))
    edited = images + change
    assert edited[0][breast[0] > 0].mean() == pytest.approx(GLAND, abs=0.03)
    assert edited[1][breast[1] > 0].mean() == pytest.approx(FAT, abs=0.03)
    assert not change[breast == 0].any()


def test_nothing_is_turned_where_the_network_says_no_or_no_change_is_asked(slices):
    images, gland, breast = slices
    nowhere, everywhere = (torch.full_like(images, value) for value in (-9.0, 9.0))
    assert float(converted(images, gland, breast, nowhere, torch.tensor([1.5, 0.7])).abs().max()) < 1e-4
    assert not converted(images, gland, breast, everywhere, torch.ones(2)).any()


def test_the_more_is_asked_the_further_a_pixel_turns(slices):
    images, gland, breast = slices
    change = converted(images, gland, breast, torch.zeros_like(images), torch.tensor([1.1, 1.5]))
    assert 0 < float(change[0].max()) < float(change[1].max())


def test_a_slice_of_one_tissue_only_stays_as_it_is(slices):
    images, gland, breast = slices
    change = converted(images, torch.zeros_like(gland), breast, torch.ones_like(images), torch.tensor([1.2, 1.2]))
    assert not change.any()


def test_gland_that_becomes_fat_takes_its_dark_border_along(slices):
    images, gland, breast = slices
    border = torch.zeros_like(gland)
    border[..., 11:21, 11:21] = 1
    border -= gland
    dark = images - FAT * border  # opposed phase: where a pixel holds both tissues, water and fat cancel
    change = converted(dark, gland, breast, torch.full_like(images, 9.0), torch.tensor([1.2, 0.8]))
    assert (dark + change)[1][border[1] > 0].mean() == pytest.approx(FAT, abs=0.06)
    elsewhere = torch.zeros_like(images)
    elsewhere[..., 6:8, 6:26] = 1
    assert float((change * elsewhere)[1].abs().max()) < 0.02


def test_noise_stays_where_tissue_is_converted(slices):
    images, gland, breast = slices
    noise = 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * breast
    change = converted(images + noise, gland, breast, torch.full_like(images, 9.0), torch.tensor([1.2, 0.8]))
    inner = torch.zeros_like(gland)
    inner[..., 13:19, 13:19] = 1
    less = (images + noise + change)[1][inner[1] > 0]
    assert float(less.std()) == pytest.approx(float(noise[1][inner[1] > 0].std()), rel=0.3)
