"""What counterfactual fine-tuning minimises."""

import copy
import math

import glands
import pytest
import torch

from cfmri_core.training.share_regressor import ShareRegressor
from cfmri_core.training.structure_counterfactuals import (
    MARGIN,
    CounterfactualLoss,
    CounterfactualValidation,
    RegressorTarget,
    SegmenterTarget,
    TunedDenoiser,
)
from cfmri_core.training.structure_denoising import BreastSlices, StructureDenoisingLoss


@pytest.fixture(scope="module")
def editor():
    return glands.editor()


@pytest.fixture(scope="module")
def slices(editor):
    return BreastSlices.of(glands.slice_set(), editor)


class Denoising:
    """A denoising loss that is told what to say of the tuned and of the untuned model."""

    def __init__(self, tuned, base):
        self.values = {True: tuned, False: base}

    def __call__(self, network, generator):
        del generator
        is_tuned = any(weights.requires_grad for weights in network.parameters())
        return torch.tensor(self.values[is_tuned], requires_grad=is_tuned)


def tuned(editor):
    base = copy.deepcopy(editor.denoiser("base")).eval().requires_grad_(False)
    return base, TunedDenoiser(copy.deepcopy(base).requires_grad_(True))


def test_an_unchanged_slice_is_as_far_off_as_the_change_that_was_asked(editor, slices):
    images, breasts, _ = slices.drawn(torch.tensor([0, 5]), torch.zeros(2, dtype=torch.bool))
    error, _ = SegmenterTarget(editor).judged(images, images, breasts, torch.tensor([1.0, 1.5]))
    assert float(error[0].abs()) < 1e-5
    assert float(error[1]) == pytest.approx(-math.log(1.5), abs=0.05)


def test_the_area_of_the_breast_has_to_stay(editor, slices):
    images, breasts, _ = slices.drawn(torch.tensor([0]), torch.zeros(1, dtype=torch.bool))
    grown = images.clone()
    grown[..., :4, :] = 0.4  # fat where there was air
    _, none = SegmenterTarget(editor).judged(images, images, breasts, torch.ones(1))
    _, some = SegmenterTarget(editor).judged(images, grown, breasts, torch.ones(1))
    assert float(none) == 0 < float(some)


def test_a_regressor_judges_the_change_of_what_it_reads(slices):
    torch.manual_seed(0)
    images, breasts, _ = slices.drawn(torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    target = RegressorTarget(ShareRegressor())
    error, side_effect = target.judged(images, images, breasts, torch.tensor([1.0, 1.2]))
    assert error.tolist() == pytest.approx([0.0, -math.log(1.2)], abs=1e-5)
    assert float(side_effect) == 0


@pytest.mark.parametrize(("now", "rises"), [(1 + 2 * MARGIN, True), (1.0, False)])
def test_the_multiplier_rises_while_the_prior_is_left_and_falls_otherwise(editor, slices, now, rises):
    base, network = tuned(editor)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), Denoising(now, 1.0), slices, 2)
    loss(network, torch.Generator().manual_seed(0))
    assert (float(network.multiplier) > 1) == rises
    assert float(network.multiplier) >= 0


def test_gradients_reach_the_denoiser_and_nothing_else(editor, slices):
    base, network = tuned(editor)
    denoising = StructureDenoisingLoss(editor, slices, 2)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), denoising, slices, 2)
    value = loss(network, torch.Generator().manual_seed(0))
    value.backward()
    assert all(weights.grad is not None for weights in network.denoiser.unet.out.parameters())
    assert all(weights.grad is None for weights in [*base.parameters(), *editor.network.segmenter.parameters()])


def test_the_same_step_draws_the_same_batch(editor, slices):
    base, network = tuned(editor)
    denoising = StructureDenoisingLoss(editor, slices, 2)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), denoising, slices, 2)
    values = [float(loss(copy.deepcopy(network), torch.Generator().manual_seed(3)).detach()) for _ in range(2)]
    assert values[0] == values[1]


def test_validation_says_how_far_edits_are_off(editor, slices):
    _, network = tuned(editor)
    score = CounterfactualValidation(editor, SegmenterTarget(editor), slices, count=6)(network)
    assert 0 < score < 2
