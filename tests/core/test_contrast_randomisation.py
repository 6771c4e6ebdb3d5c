import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.training.contrast_randomisation import BACKGROUND_CLASSES, ContrastRandomisation, background_classes


@pytest.fixture
def slices():
    """Two slices: dark air, a bright chest wall, and a breast with a gland in it."""
    generator = torch.Generator().manual_seed(0)
    images = 0.02 * torch.randn(2, 1, 48, 48, generator=generator)
    labels = torch.zeros(2, 48, 48, dtype=torch.long)
    images[:, :, 30:] += 0.8
    images[:, :, 5:25, 5:25] += 0.5
    labels[:, 5:25, 5:25], labels[:, 10:18, 10:18] = 1, 2
    return SliceSet(images, torch.zeros(2, dtype=torch.long), (AcquisitionParameters(),), labels)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_background_is_split_by_intensity_and_tissues_are_not(slices):
    regions = background_classes(slices, seed=0)
    assert regions.max() == BACKGROUND_CLASSES + 1
    assert (regions[slices.labels == 2] == BACKGROUND_CLASSES + 1).all()
    assert (regions[slices.labels == 1] == BACKGROUND_CLASSES).all()
    air, wall = regions[:, 26:29, 30:].float().mean(), regions[:, 34:, :].float().mean()
    assert air < 1.5 < wall


def test_contrast_of_tissues_is_random_and_can_turn_round(slices):
    images = ContrastRandomisation(slices)(torch.zeros(40, dtype=torch.long), generator())
    gland, fat = images[:, 0, 12:16, 12:16].mean((1, 2)), images[:, 0, 20:24, 5:25].mean((1, 2))
    assert images.shape == (40, 1, 48, 48)
    assert torch.isfinite(images).all()
    assert 5 < int((gland > fat).sum()) < 35


def test_images_are_normalised_as_scans_and_repeatable(slices):
    chosen = torch.tensor([0, 1])
    randomise = ContrastRandomisation(slices)
    images = randomise(chosen, generator(3))
    assert torch.equal(images, randomise(chosen, generator(3)))
    assert not torch.equal(images, randomise(chosen, generator(4)))
    low, high = torch.quantile(images.flatten(1), torch.tensor([0.1, 0.99]), dim=1)
    assert torch.allclose(low, torch.zeros(2), atol=1e-4)
    assert torch.allclose(high, torch.ones(2), atol=1e-4)


def test_a_constant_background_is_one_class(slices):
    flat = SliceSet(torch.zeros_like(slices.images), slices.subject, slices.parameters, slices.labels)
    assert set(background_classes(flat, 0).unique().tolist()) == {0, BACKGROUND_CLASSES, BACKGROUND_CLASSES + 1}


def test_slices_without_labels_are_refused(slices):
    with pytest.raises(RequestError, match="labels"):
        ContrastRandomisation(SliceSet(slices.images, slices.subject, slices.parameters))
