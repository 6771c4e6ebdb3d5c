"""Counterfactual fine-tuning: from a diffusion model that knows the share to a network that changes it.

The losses are those of Seg-CFT (Xia et al., arXiv 2509.24913): a frozen judge says what share a counterfactual has and
what else changed. The counterfactual is *one* evaluation of a network that begins with the weights of the diffusion
model. Fine-tuning a few steps of edit-friendly inversion instead (DRaFT) was tried at 2 to 4 steps and did not learn
within half an hour on a processor: through the noise the judge's gradient hardly reaches the condition, and what it
finds first is stripes. The diffusion model stays as it is, as the prior: counterfactuals may be less likely to it than
scans are by `MARGIN` at most, a constraint with a multiplier (modified differential multiplier method, Platt and Barr
1988, as in causal-gen).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import FAT, FIBROGLANDULAR, StructureEditor, areas, sharpened, with_share
from cfmri_core.pipeline.structure_images import Breasts, TunedChange, ratio_error
from cfmri_core.training.judge_views import judge_view
from cfmri_core.training.share_regressor import ShareRegressor
from cfmri_core.training.structure_denoising import BreastSlices, StructureDenoisingLoss

#: Largest relative change of the share that is trained, up and down alike, as a logarithm.
LARGEST_CHANGE = math.log(1.7)
#: Excess of the denoising loss of counterfactuals that is allowed, as a share of that of scans, and the schedule
#: indices at which it is taken.
MARGIN, JUDGED_LEVELS = 0.1, (50, 500)
#: Rate at which the multiplier rises while the constraint is broken, and the damping of the method.
MULTIPLIER_RATE, DAMPING = 0.02, 1.0
#: Weights of what is to stay as the judge sees it, and of the mean size of the change in the breast.
STAYING_WEIGHT, CHANGE_WEIGHT = 1.0, 0.2
#: Weights of the area of the breast and of changes away from fibroglandular tissue, among what a segmenter sees stay;
#: and how far from it growth may reach, in pixels.
AREA_WEIGHT, AWAY_WEIGHT, REACH_PIXELS = 50.0, 5.0, 2


class TunedNetwork(nn.Module):
    """A network in fine-tuning, and the multiplier of its constraint.

    Args:
        denoiser: The diffusion model, whose weights it begins with; its last layer begins at nought: no change.

    Attributes:
        network: The network.
        multiplier: How much the prior weighs now; not below 0.
    """

    multiplier: Tensor

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(denoiser).requires_grad_(True)
        with torch.no_grad():
            for weights in self.network.get_submodule("unet.out").parameters():
                weights.mul_(0.1)
        self.register_buffer("multiplier", torch.zeros(()))


class Target(Protocol):
    """A frozen judge of edits."""

    def judged(
        self, images: Tensor, edited: Tensor, breasts: Breasts, ratio: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Judge slices by what they became.

        Args:
            images: Slices as they were.
            edited: As they became.
            breasts: Of these slices.
            ratio: Asked share over that before.
            generator: Draws how the slices are shown to the judge; ``None`` shows them as they are.

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
        others: Further segmenters; one of all is drawn for each batch, so that none is learned by heart.
    """

    def __init__(self, editor: StructureEditor, others: Sequence[Segmenter] = ()) -> None:
        self.judges = [editor.segmenter, *others]

    def judged(
        self, images: Tensor, edited: Tensor, breasts: Breasts, ratio: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare soft areas: inside the breast with the wanted one, of the breast with its own before."""
        judge, masks = self.judges[0], breasts.breast
        if generator is not None:
            judge = self.judges[int(torch.randint(len(self.judges), (), generator=generator))]
            images, edited, masks = judge_view(images, edited, masks, generator)
        with torch.no_grad():
            probabilities = sharpened(judge, images)
            before = _breast_area(probabilities)
            present, _ = areas(probabilities, masks)
            gland = (probabilities[:, FIBROGLANDULAR, None] > 0.5).float()
            away = 1 - max_pool2d(gland, 2 * REACH_PIXELS + 1, stride=1, padding=REACH_PIXELS)
        found = sharpened(judge, edited)
        area, size = areas(found, masks)
        swelling = (((_breast_area(found) - before) / before.clamp(min=1)) ** 2).mean()
        haze = (((edited - images) * away).abs().sum((1, 2, 3)) / size.clamp(min=1)).mean()
        return ratio_error(area, present, ratio), AREA_WEIGHT * swelling + AWAY_WEIGHT * haze


class RegressorTarget:
    """Judges by one number: the logarithm of the share that a regressor reads off the slice.

    Attributes:
        regressor: Frozen.
    """

    def __init__(self, regressor: ShareRegressor) -> None:
        self.regressor = regressor.eval().requires_grad_(False)

    def judged(
        self,
        images: Tensor,
        edited: Tensor,
        breasts: Breasts,  # noqa: ARG002
        ratio: Tensor,
        generator: torch.Generator | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """Compare the change of what is read with the one that was asked for."""
        with torch.no_grad():
            before: Tensor = self.regressor(images)
        after: Tensor = self.regressor(edited)
        return after - before - torch.log(ratio), edited.new_zeros(())


def _breast_area(probabilities: Tensor) -> Tensor:
    return (probabilities[:, FAT] + probabilities[:, FIBROGLANDULAR]).sum((1, 2))


class CounterfactualLoss:
    """The judge's error of counterfactuals, while the diffusion model has to find them as likely as scans."""

    def __init__(
        self,
        editor: StructureEditor,
        base: nn.Module,
        target: Target,
        denoising: StructureDenoisingLoss,
        slices: BreastSlices,
        batch_size: int,
        change: TunedChange,
    ) -> None:
        self.editor, self.base, self.target, self.change = editor, base, target, change
        self.denoising, self.slices, self.batch_size = denoising, slices, batch_size

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw slices and ratios, edit them, and return the loss; the multiplier moves by one step."""
        assert isinstance(network, TunedNetwork)  # noqa: S101 - tells the type checker, not the user
        count, device = self.batch_size, self.editor.device
        chosen = torch.randint(len(self.slices.slices.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        ratio = torch.exp(LARGEST_CHANGE * (2 * torch.rand(count, generator=generator) - 1)).to(device)
        images, breasts, encoded = self.slices.drawn(chosen, mirrored)
        images, breasts, encoded = images.to(device), breasts.to(device), encoded.to(device)
        target = with_share(encoded, breasts.shares, ratio)
        change = self.change(self.editor, network.network, images, breasts, target, ratio)
        error, side_effect = self.target.judged(images, images + change, breasts, ratio, generator)
        size = (change.abs().sum((1, 2, 3)) / breasts.area.clamp(min=1)).mean()
        # Huber: a slice with hardly any fibroglandular tissue must not outweigh the others.
        missed = 10 * nn.functional.huber_loss(error, torch.zeros_like(error), delta=0.3)
        told = missed + STAYING_WEIGHT * side_effect + CHANGE_WEIGHT * size
        return told + self._prior(network, images, change, breasts, encoded, ratio, generator)

    def _prior(
        self,
        network: TunedNetwork,
        images: Tensor,
        change: Tensor,
        breasts: Breasts,
        encoded: Tensor,
        ratio: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the term of the constraint, and let the multiplier rise or fall."""
        index = torch.randint(*JUDGED_LEVELS, (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator).to(images)
        asked, present = (with_share(encoded, breasts.shares * factor) for factor in (ratio, torch.ones_like(ratio)))
        now = self.denoising.of(self.base, images + change, breasts.breast, asked, index, noise)
        with torch.no_grad():
            before = self.denoising.of(self.base, images, breasts.breast, present, index, noise)
        slack = (1 + MARGIN) - now / before
        # Never negative: what is likelier than it must be is not pushed away from that.
        term = -(network.multiplier - DAMPING * slack.detach()).clamp(min=0) * slack
        with torch.no_grad():
            network.multiplier.sub_(MULTIPLIER_RATE * slack.detach()).clamp_(min=0)
        return term


class CounterfactualValidation:
    """Mean absolute logarithm of reached over asked on held-back subjects, at fixed ratios; lower is better."""

    def __init__(
        self, editor: StructureEditor, target: Target, slices: BreastSlices, change: TunedChange, count: int = 24
    ) -> None:
        self.editor, self.target, self.change = editor, target, change
        generator = torch.Generator().manual_seed(7)
        chosen = torch.randint(len(slices.slices.images), (count,), generator=generator)
        images, breasts, encoded = slices.drawn(chosen, torch.zeros(count, dtype=torch.bool))
        self.images, self.breasts = images.to(editor.device), breasts.to(editor.device)
        self.ratio = torch.exp(torch.linspace(math.log(0.6), math.log(1.5), count)).to(editor.device)
        self.asked = with_share(encoded.to(editor.device), self.breasts.shares, self.ratio)

    def __call__(self, network: nn.Module) -> float:
        """Return the error."""
        assert isinstance(network, TunedNetwork)  # noqa: S101 - tells the type checker, not the user
        with torch.no_grad():
            change = self.change(self.editor, network.network, self.images, self.breasts, self.asked, self.ratio)
            error, side_effect = self.target.judged(self.images, self.images + change, self.breasts, self.ratio)
            return float(error.abs().mean() + STAYING_WEIGHT * side_effect)
