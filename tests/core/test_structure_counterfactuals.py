"""What counterfactual fine-tuning minimises."""

import copy
import math

import glands
import pytest
import torch

from cfmri_core.pipeline.structure_images import tissue_change
from cfmri_core.training.share_regressor import ShareRegressor
from cfmri_core.training.structure_counterfactuals import (
    MARGIN,
    CounterfactualLoss,
    CounterfactualValidation,
    RegressorTarget,
    SegmenterTarget,
    TunedNetwork,
)
from cfmri_core.training.structure_denoising import BreastSlices, StructureDenoisingLoss


@pytest.fixture(scope="module")
def editor():
    return glands.editor()


@pytest.fixture(scope="module")
def slices(editor):
    return BreastSlices.of(glands.slice_set(), editor)


class Denoising(StructureDenoisingLoss):
    """Finds counterfactuals less likely than scans by a given factor."""

    def __init__(self, editor, slices, factor):
        super().__init__(editor, slices, 2)
        self.factor = factor

    def of(self, network, images, *drawn):
        del network, drawn
        return (self.factor if images.requires_grad else 1.0) * (1 + 0 * images.sum())


def tuned(editor):
    base = copy.deepcopy(editor.denoiser("base")).eval().requires_grad_(False)
    return base, TunedNetwork(base)


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


@pytest.mark.parametrize(("factor", "rises"), [(1 + 2 * MARGIN, True), (1.0, False)])
def test_the_multiplier_rises_while_the_prior_is_left_and_falls_otherwise(editor, slices, factor, rises):
    base, network = tuned(editor)
    network.multiplier.fill_(0.5)
    loss = CounterfactualLoss(
        editor, base, SegmenterTarget(editor), Denoising(editor, slices, factor), slices, 2, tissue_change
    )
    loss(network, torch.Generator().manual_seed(0))
    assert (float(network.multiplier) > 0.5) == rises


def test_gradients_reach_the_network_and_nothing_else(editor, slices):
    base, network = tuned(editor)
    denoising = StructureDenoisingLoss(editor, slices, 2)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), denoising, slices, 2, tissue_change)
    value = loss(network, torch.Generator().manual_seed(0))
    value.backward()
    assert all(weights.grad is not None for weights in network.network.unet.out.parameters())
    assert all(weights.grad is None for weights in [*base.parameters(), *editor.network.segmenter.parameters()])


def test_some_steps_bring_the_counterfactual_nearer_to_what_is_asked(editor, slices):
    base, network = tuned(editor)
    denoising = StructureDenoisingLoss(editor, slices, 4)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), denoising, slices, 4, tissue_change)
    validate = CounterfactualValidation(editor, SegmenterTarget(editor), slices, tissue_change, count=8)
    before = validate(network)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(40):
        optimizer.zero_grad()
        loss(network, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert validate(network) < before


def test_the_same_step_draws_the_same_batch(editor, slices):
    base, network = tuned(editor)
    denoising = StructureDenoisingLoss(editor, slices, 2)
    loss = CounterfactualLoss(editor, base, SegmenterTarget(editor), denoising, slices, 2, tissue_change)
    values = [float(loss(copy.deepcopy(network), torch.Generator().manual_seed(3)).detach()) for _ in range(2)]
    assert values[0] == values[1]


def test_validation_says_how_far_counterfactuals_are_off(editor, slices):
    _, network = tuned(editor)
    assert CounterfactualValidation(editor, SegmenterTarget(editor), slices, tissue_change, count=6)(network) > 0
