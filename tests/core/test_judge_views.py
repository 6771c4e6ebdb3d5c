"""How edits are shown to a frozen segmenter."""

import glands
import pytest
import torch

from cfmri_core.training.judge_views import judge_view


@pytest.fixture
def images():
    return glands.slice_set().images[:6]


def seen(images, edited, seed=0):
    masks = (images > 0.3).float()
    return judge_view(images, edited, masks, torch.Generator().manual_seed(seed))


def test_source_and_edit_are_seen_alike(images):
    source, edited, masks = seen(images, images.clone())
    assert torch.equal(source, edited)
    assert masks.shape == images.shape
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1


def test_every_draw_is_another_view_and_the_same_draw_the_same(images):
    first, again, other = (seen(images, images, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_masks_move_with_the_slices(images):
    source, _, masks = seen(images, images)
    assert float(source[masks > 0.9].mean()) > 2 * float(source[masks < 0.1].mean())


def test_gradients_reach_the_edit(images):
    edited = images.clone().requires_grad_(True)
    _, shown, _ = seen(images, edited)
    shown.sum().backward()
    assert torch.isfinite(edited.grad).all()
    assert float(edited.grad.abs().max()) > 0
