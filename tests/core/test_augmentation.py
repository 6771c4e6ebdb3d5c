"""The arms: what each does to a batch, and a segmenter trained with each."""

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.training.augmentation import AUGMENTATIONS, Batch, Classical, augmentation_of, mirrored

SHIFT = 10.0


@pytest.fixture
def slices():
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(6, 48, 48, dtype=torch.long)
    labels[:, 10:40, 4:20], labels[:, 16:30, 8:16] = 1, 2
    images = 0.5 * labels[:, None].float() + 0.05 * torch.rand(6, 1, 48, 48, generator=generator)
    return SliceSet(
        images, torch.tensor([0, 0, 0, 1, 1, 1]), (AcquisitionParameters(), AcquisitionParameters()), labels
    )


def batch_of(slices, count=64):
    chosen = torch.arange(count) % len(slices.images)
    return Batch(slices.images[chosen], slices.labels[chosen], chosen)


def applied(name, slices, seed=0, count=64):
    unmistakable = [slices.images + SHIFT, slices.images + 2 * SHIFT]
    return augmentation_of(name, slices, unmistakable)(batch_of(slices, count), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_arm_keeps_shape_and_type_and_repeats_itself(slices, name):
    batch = applied(name, slices, count=8)
    assert batch.images.shape == (8, 1, 48, 48)
    assert batch.images.dtype == torch.float32
    assert batch.labels.shape == (8, 48, 48)
    assert batch.labels.dtype == torch.int64
    assert set(batch.labels.unique().tolist()) <= {0, 1, 2}
    assert torch.isfinite(batch.images).all()
    assert type(batch.images) is torch.Tensor
    again = applied(name, slices, count=8)
    assert torch.equal(batch.images, again.images)
    assert torch.equal(batch.labels, again.labels)
    assert not torch.equal(batch.images, applied(name, slices, seed=1, count=8).images)


def test_none_only_mirrors_image_and_labels_together(slices):
    before, after = batch_of(slices), applied("none", slices)
    same = (after.labels == before.labels).all((1, 2))
    mirror = (after.labels == before.labels.flip(-1)).all((1, 2))
    assert (same ^ mirror).all()
    assert 10 < int(same.sum()) < 54
    assert torch.equal(after.images[same], before.images[same])
    assert torch.equal(after.images[mirror], before.images[mirror].flip(-1))


def test_counterfactual_shows_half_of_the_batch_as_one_of_the_variants(slices):
    after = applied("counterfactual", slices, count=400)
    kind = (after.images.amin((1, 2, 3)) / SHIFT).round().int()
    assert set(kind.tolist()) == {0, 1, 2}
    assert 0.4 < float((kind > 0).float().mean()) < 0.6


def test_classical_keeps_images_and_labels_together(slices):
    after = Classical()(batch_of(slices, 24), torch.Generator().manual_seed(0))
    assert not torch.equal(after.labels, batch_of(slices, 24).labels)
    gland = torch.stack([image[0][label == 2].mean() for image, label in zip(after.images, after.labels, strict=True)])
    air = torch.stack([image[0][label == 0].mean() for image, label in zip(after.images, after.labels, strict=True)])
    assert (gland > air + 0.3).all()


def test_contrast_randomisation_leaves_half_of_the_batch_as_scanned(slices):
    before, after = batch_of(slices, 100), applied("contrast-randomisation", slices, count=100)
    scanned = [
        torch.equal(one, other) or torch.equal(one, other.flip(-1))
        for one, other in zip(after.images, before.images, strict=True)
    ]
    assert 30 < sum(scanned) < 70


def test_mirroring_twice_with_one_seed_gives_the_batch_back(slices):
    batch = batch_of(slices)
    twice = mirrored(mirrored(batch, torch.Generator().manual_seed(1)), torch.Generator().manual_seed(1))
    assert torch.equal(twice.images, batch.images)


def test_unknown_arms_and_arms_without_counterfactuals_are_refused(slices):
    with pytest.raises(RequestError, match="'magic' is not an augmentation"):
        augmentation_of("magic", slices)
    with pytest.raises(RequestError, match="needs counterfactuals"):
        augmentation_of("counterfactual+classical", slices)
