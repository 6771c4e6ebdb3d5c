"""Methods of the structure editor on network images."""

import glands
import pytest
import torch

from cfmri_core.models.structure_editor import areas
from cfmri_core.pipeline.structure_images import (
    GUIDANCE,
    METHODS,
    change_of_images,
    ratio_error,
    read_breasts,
)
from cfmri_core.slices import normalised_images


@pytest.fixture(scope="module")
def editor():
    return glands.editor()


@pytest.fixture(scope="module")
def images():
    return normalised_images(glands.breast(), glands.SIZE)[0]


@pytest.fixture(scope="module")
def breasts(images, editor):
    return read_breasts(images, editor)


def test_breast_and_share_are_read_off_the_slices(breasts):
    """The gland has radius 6 in a breast of radius 15."""
    assert breasts.share == pytest.approx((6 / 15) ** 2, rel=0.1)
    assert breasts.shares.shape == (4,)
    assert breasts.room.max() == 1
    assert not breasts.room[breasts.breast == 0].any()


def test_room_ends_before_the_border_of_the_breast(breasts):
    border = torch.nn.functional.max_pool2d(1 - breasts.breast, 3, stride=1, padding=1) * breasts.breast
    assert not breasts.room[border > 0].any()


@pytest.mark.parametrize("method", METHODS)
def test_nothing_changes_outside_the_breast_and_the_same_seed_changes_the_same(method, images, breasts, editor):
    change, again, other = (
        change_of_images(images, breasts, glands.PROTOCOL, 1.3, method, editor, seed) for seed in (1, 1, 2)
    )
    assert change.shape == images.shape
    assert float(change.abs().max()) > 0
    assert not change[breasts.breast == 0].any()
    torch.testing.assert_close(change, again)
    has_noise = method in ("guidance", "base")  # the others are one evaluation of the clean slice
    assert torch.equal(change, other) != has_noise


@pytest.mark.parametrize("ratio", [0.7, 1.4])
def test_guidance_moves_the_area_to_where_it_is_asked(ratio, images, breasts, editor):
    """With no training at all: the gradient of the segmenter does it."""
    change = change_of_images(images, breasts, glands.PROTOCOL, ratio, GUIDANCE, editor, 0)
    area, _ = areas(editor.probabilities(images + change), breasts.breast)
    reached = float(area.sum() / breasts.fibroglandular.sum())
    assert abs(reached / ratio - 1) < abs(1 / ratio - 1) * 0.9


def test_no_change_asked_is_no_change(images, breasts, editor):
    change = change_of_images(images, breasts, glands.PROTOCOL, 1.0, "seg-cft", editor, 0)
    assert not change.any()


def test_the_error_is_nought_when_the_area_is_as_asked(breasts):
    assert float(ratio_error(1.2 * breasts.fibroglandular, breasts.fibroglandular, 1.2).abs().max()) < 1e-6
    assert float(ratio_error(breasts.fibroglandular, breasts.fibroglandular, 1.2).max()) < 0
