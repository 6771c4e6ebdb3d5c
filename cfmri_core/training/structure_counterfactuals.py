"""Counterfactual fine-tuning: make edits reach the share that is asked for, without leaving what the model knows.

The loss is that of Seg-CFT (Xia et al., arXiv 2509.24913) in the form of a diffusion model: a slice is edited in a few
steps under another share, all of which carry gradients (DRaFT, Clark et al., ICLR 2024); a frozen judge says what was
reached. The prior is kept by a constraint, not a weight: the denoising loss may exceed that of the model before
fine-tuning by `MARGIN` at most (modified differential multiplier method, Platt and Barr 1988, as in causal-gen).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from cfmri_core.diffusion.sampling import NoiseSource
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.models.structure_editor import FAT, FIBROGLANDULAR, StructureEditor, areas, with_share
from cfmri_core.pipeline.structure_images import DEPTH, STEPS, Breasts, edited_change, plain_eps, ratio_error
from cfmri_core.training.share_regressor import ShareRegressor
from cfmri_core.training.structure_denoising import BreastSlices, StructureDenoisingLoss

#: Largest relative change of the share that is trained, up and down alike, as a logarithm.
LARGEST_CHANGE = math.log(1.7)
#: Excess of the denoising loss that is allowed, as a share of what the untuned model has.
MARGIN = 0.15
#: Rate at which the multiplier rises while the constraint is broken, and the damping of the method.
MULTIPLIER_RATE, DAMPING = 0.02, 1.0
#: Weights of what is to stay as the judge sees it, and of the mean size of the change in the breast.
STAYING_WEIGHT, CHANGE_WEIGHT = 1.0, 1.5
#: Weights of the area of the breast and of changes away from fibroglandular tissue, among what a segmenter sees stay;
#: and how far from it growth may reach, in pixels.
AREA_WEIGHT, AWAY_WEIGHT, REACH_PIXELS = 200.0, 10.0, 2


class TunedDenoiser(nn.Module):
    """A denoiser in fine-tuning, and the multiplier of its constraint.

    Attributes:
        denoiser: The denoiser.
        multiplier: How much the prior weighs now; not below 0.
    """

    multiplier: Tensor

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("multiplier", torch.zeros(()))


class Target(Protocol):
    """A frozen judge of edits."""

    def judged(self, images: Tensor, edited: Tensor, breasts: Breasts, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Judge slices by what they became.

        Returns:
            Reached over asked as a logarithm, shape ``(slices,)``; and how far other structures changed, a scalar that
            is 0 where the judge knows none.
        """


class SegmenterTarget:
    """Judges by areas: the fibroglandular one is to be as asked, that of the whole breast as it was.

    What is neither is the complement of the breast. A segmenter also knows where tissue is: fat away from all
    fibroglandular tissue is to stay as it is, or a haze over the whole breast would do as well.

    Attributes:
        editor: Whose segmenter it is.
    """

    def __init__(self, editor: StructureEditor) -> None:
        self.editor = editor

    def judged(self, images: Tensor, edited: Tensor, breasts: Breasts, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Compare soft areas: inside the breast with the wanted one, of the breast with its own before."""
        with torch.no_grad():
            probabilities = self.editor.probabilities(images)
            before = _breast_area(probabilities)
            gland = (probabilities[:, FIBROGLANDULAR, None] > 0.5).float()
            away = 1 - max_pool2d(gland, 2 * REACH_PIXELS + 1, stride=1, padding=REACH_PIXELS)
        found = self.editor.probabilities(edited)
        area, _ = areas(found, breasts.breast)
        swelling = (((_breast_area(found) - before) / before.clamp(min=1)) ** 2).mean()
        haze = (((edited - images) * away).abs().sum((1, 2, 3)) / breasts.area.clamp(min=1)).mean()
        return ratio_error(area, breasts, ratio), AREA_WEIGHT * swelling + AWAY_WEIGHT * haze


class RegressorTarget:
    """Judges by one number: the logarithm of the share that a regressor reads off the slice.

    Attributes:
        regressor: Frozen.
    """

    def __init__(self, regressor: ShareRegressor) -> None:
        self.regressor = regressor.eval().requires_grad_(False)

    def judged(self, images: Tensor, edited: Tensor, breasts: Breasts, ratio: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Compare the change of what is read with the one that was asked for."""
        with torch.no_grad():
            before: Tensor = self.regressor(images)
        after: Tensor = self.regressor(edited)
        return after - before - torch.log(ratio), edited.new_zeros(())


def _breast_area(probabilities: Tensor) -> Tensor:
    return (probabilities[:, FAT] + probabilities[:, FIBROGLANDULAR]).sum((1, 2))


class CounterfactualLoss:
    """The judge's error of edits, under the constraint that the model still denoises."""

    def __init__(
        self,
        editor: StructureEditor,
        base: nn.Module,
        target: Target,
        denoising: StructureDenoisingLoss,
        slices: BreastSlices,
        batch_size: int,
    ) -> None:
        self.editor, self.base, self.target = editor, base, target
        self.denoising, self.slices, self.batch_size = denoising, slices, batch_size

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw slices and ratios, edit them, and return the loss; the multiplier moves by one step."""
        assert isinstance(network, TunedDenoiser)  # noqa: S101 - tells the type checker, not the user
        count = self.batch_size
        chosen = torch.randint(len(self.slices.slices.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        ratio = torch.exp(LARGEST_CHANGE * (2 * torch.rand(count, generator=generator) - 1))
        shape = self.slices.slices.images.shape[2:]
        seed = int(torch.randint(2**31 - 1, (), generator=generator))

        def noise(index: int) -> Tensor:
            drawn = torch.Generator().manual_seed(seed + index)
            return torch.randn((count, 1, *shape), generator=drawn).to(self.editor.device)

        images, breasts, encoded = self.slices.drawn(chosen, mirrored)
        loss = self.of(network.denoiser, images, breasts, encoded, ratio, noise)
        return loss + self._prior(network, generator)

    def of(
        self,
        denoiser: nn.Module,
        images: Tensor,
        breasts: Breasts,
        encoded: Tensor,
        ratio: Tensor,
        noise: NoiseSource,
    ) -> Tensor:
        """Loss of given slices ``(batch, 1, size, size)`` and ratios ``(batch,)``, without the constraint."""
        images, breasts, ratio = images.to(self.editor.device), breasts.to(self.editor.device), ratio.to(images)
        change = counterfactual_change(self.editor, denoiser, images, breasts, encoded, ratio, noise)
        error, side_effect = self.target.judged(images, images + change, breasts, ratio)
        size = (change.abs().sum((1, 2, 3)) / breasts.area.clamp(min=1)).mean()
        # Huber: a slice with hardly any fibroglandular tissue must not outweigh the others.
        return nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.3) * 10 + (
            STAYING_WEIGHT * side_effect + CHANGE_WEIGHT * size
        )

    def _prior(self, network: TunedDenoiser, generator: torch.Generator) -> Tensor:
        """Return the term of the constraint, and let the multiplier rise or fall."""
        state = generator.get_state()
        now = self.denoising(network.denoiser, generator)
        generator.set_state(state)
        with torch.no_grad():
            before = self.denoising(self.base, generator)
        slack = (1 + MARGIN) - now / before
        # Never negative: a model that denoises better than it must is not pushed away from it.
        term = -(network.multiplier - DAMPING * slack.detach()).clamp(min=0) * slack
        with torch.no_grad():
            network.multiplier.sub_(MULTIPLIER_RATE * slack.detach()).clamp_(min=0)
        return term


class CounterfactualValidation:
    """Mean absolute logarithm of reached over asked on held-back subjects, at fixed ratios; lower is better."""

    def __init__(self, editor: StructureEditor, target: Target, slices: BreastSlices, count: int = 24) -> None:
        self.editor, self.target = editor, target
        generator = torch.Generator().manual_seed(7)
        chosen = torch.randint(len(slices.slices.images), (count,), generator=generator)
        self.images, self.breasts, self.encoded = slices.drawn(chosen, torch.zeros(count, dtype=torch.bool))
        self.ratio = torch.exp(torch.linspace(math.log(0.6), math.log(1.4), count))
        drawn = {
            index: torch.randn(1, 1, *self.images.shape[2:], generator=generator) for index in index_grid(DEPTH, STEPS)
        }
        self.noise = lambda index: drawn[index].to(editor.device)

    def __call__(self, network: nn.Module) -> float:
        """Return the error."""
        assert isinstance(network, TunedDenoiser)  # noqa: S101 - tells the type checker, not the user
        device = self.editor.device
        images, breasts, ratio = self.images.to(device), self.breasts.to(device), self.ratio.to(device)
        with torch.no_grad():
            change = counterfactual_change(
                self.editor, network.denoiser, images, breasts, self.encoded, ratio, self.noise
            )
            error, _ = self.target.judged(images, images + change, breasts, ratio)
            return float(error.abs().mean())


def counterfactual_change(
    editor: StructureEditor,
    denoiser: nn.Module,
    images: Tensor,
    breasts: Breasts,
    encoded: Tensor,
    ratio: Tensor,
    noise: NoiseSource,
) -> Tensor:
    """Edit slices as at inference, each towards a ratio of its own; gradients, where enabled, go through every step."""
    shares, encoded = breasts.shares, encoded.to(images.device)
    eps = plain_eps(editor, denoiser, breasts)
    return edited_change(
        editor, eps, images, breasts, with_share(encoded, shares), with_share(encoded, shares, ratio), noise
    )
