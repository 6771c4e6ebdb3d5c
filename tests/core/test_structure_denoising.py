"""What the diffusion model of the structure editor learns from."""

import glands
import pytest
import torch

from cfmri_core.errors import RequestError
from cfmri_core.training.structure_denoising import (
    HIDDEN_SHARE,
    BreastSlices,
    StructureDenoisingLoss,
    StructureDenoisingValidation,
)


@pytest.fixture(scope="module")
def editor():
    return glands.editor()


@pytest.fixture(scope="module")
def slices(editor):
    return BreastSlices.of(glands.slice_set(), editor)


def test_larger_glands_have_larger_shares(slices):
    shares = [float(slices.breasts.shares[slices.slices.subject == subject].mean()) for subject in range(3)]
    assert shares == sorted(shares)


def test_slices_without_a_breast_are_left_out(editor):
    given = glands.slice_set()
    given.images[0] = 0
    assert len(BreastSlices.of(given, editor).slices.images) == len(given.images) - 1


def test_without_any_breast_there_is_nothing_to_learn(editor):
    given = glands.slice_set()
    given.images.zero_()
    with pytest.raises(RequestError, match="no breast"):
        BreastSlices.of(given, editor)


def test_mirrored_slices_take_their_breast_along(slices):
    images, breasts, _ = slices.drawn(torch.tensor([0]), torch.tensor([True]))
    assert torch.equal(images.flip(-1), slices.slices.images[:1])
    assert torch.equal(breasts.breast.flip(-1), slices.breasts.breast[:1])


def test_the_share_is_hidden_now_and_then(editor, slices):
    loss = StructureDenoisingLoss(editor, slices, 1)
    encoded, shares = torch.ones(4000, glands.SPEC.width), torch.full((4000,), 0.2)
    hidden = loss._hidden(encoded, shares, torch.Generator().manual_seed(0))
    assert float((hidden[:, -2] == 0).float().mean()) == pytest.approx(HIDDEN_SHARE, abs=0.02)
    assert float((hidden[:, : glands.SPEC.width].abs().sum(1) == 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_validation_is_the_same_at_every_call(editor, slices):
    validate = StructureDenoisingValidation(editor, slices, count=4)
    denoiser = editor.denoiser("base")
    assert validate(denoiser) == validate(denoiser) > 0
