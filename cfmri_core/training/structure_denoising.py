"""The diffusion model under the structure editor: denoise slices, told the acquisition, the breast and the share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.models.structure_editor import StructureEditor, with_share
from cfmri_core.pipeline.structure_images import Breasts, read_breasts
from cfmri_core.training.editor import HIDDEN_ATTRIBUTE_SHARE, UNCONDITIONAL_SHARE, scale_balanced_square

#: Share of slices whose fibroglandular share is hidden, whatever else is.
HIDDEN_SHARE = 0.15
#: Share of the image that the breast covers at least in a slice that is trained on.
LEAST_BREAST = 0.02


@dataclass(frozen=True)
class BreastSlices:
    """Slices that show a breast, and what the editor's segmenter sees in them.

    Attributes:
        slices: The slices.
        breasts: Breast and share of each.
        conditions: Encoded acquisition of each subject, shape ``(subjects, width)``.
    """

    slices: SliceSet
    breasts: Breasts
    conditions: Tensor

    @classmethod
    def of(cls, slices: SliceSet, editor: StructureEditor) -> Self:
        """Keep the slices with a breast.

        Raises:
            RequestError: There is none.
        """
        breasts = read_breasts(slices.images, editor)
        keep = breasts.area >= LEAST_BREAST * slices.images[0].numel()
        if not keep.any():
            raise RequestError("The segmenter finds no breast in the training data.", "Give another segmenter.")
        shown = SliceSet(slices.images[keep], slices.subject[keep], slices.parameters, None, slices.patients)
        return cls(shown, breasts.rows(keep), editor.spec.encode_all(slices.parameters))

    def drawn(self, chosen: Tensor, mirrored: Tensor) -> tuple[Tensor, Breasts, Tensor]:
        """Return images, breasts and encoded acquisitions of chosen slices, some of them mirrored left to right."""
        which = mirrored[:, None, None, None]
        breasts = self.breasts.rows(chosen)
        images, breast, room, gland = (
            torch.where(which, value.flip(-1), value)
            for value in (self.slices.images[chosen], breasts.breast, breasts.room, breasts.gland)
        )
        placed = Breasts(breast, room, gland, breasts.fibroglandular, breasts.area)
        return images, placed, self.conditions[self.slices.subject[chosen]]


class StructureDenoisingLoss:
    """Squared error of v balanced over scales, at every noise level; acquisition and share are hidden now and then."""

    def __init__(self, editor: StructureEditor, slices: BreastSlices, batch_size: int) -> None:
        self.editor, self.slices, self.batch_size = editor, slices, batch_size

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch of slices, noise levels and hidden conditions; return the mean loss."""
        count = self.batch_size
        chosen = torch.randint(len(self.slices.slices.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        images, breasts, encoded = self.slices.drawn(chosen, mirrored)
        condition = self._hidden(encoded, breasts.shares, generator)
        index = torch.randint(1, len(self.editor.alpha_bar), (count,), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return self.of(network, images, breasts.breast, condition, index, noise)

    def of(
        self, network: nn.Module, images: Tensor, breast: Tensor, condition: Tensor, index: Tensor, noise: Tensor
    ) -> Tensor:
        """Loss of given images ``(batch, 1, size, size)`` at given noise levels."""
        device = self.editor.device
        x0 = self.editor.config.normalisation.to_network(images)
        level = self.editor.alpha_bar[index][:, None, None, None].float()
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        target = (level.sqrt() * noise - (1 - level).sqrt() * x0).to(device)
        v = self.editor.v(network, x_t.to(device), index.to(device), condition.to(device), breast.to(device))
        return scale_balanced_square(v - target, level.to(device))

    def _hidden(self, encoded: Tensor, shares: Tensor, generator: torch.Generator) -> Tensor:
        attributes = len(self.editor.spec.blocks)
        keep = torch.rand(len(encoded), attributes, generator=generator) >= HIDDEN_ATTRIBUTE_SHARE
        keep &= torch.rand(len(encoded), 1, generator=generator) >= UNCONDITIONAL_SHARE
        condition = with_share(self.editor.spec.drop_attributes(encoded, keep), shares)
        told = torch.rand(len(encoded), 1, generator=generator) >= HIDDEN_SHARE
        width = encoded.shape[1]
        return torch.cat([condition[:, :width], condition[:, width:] * told], dim=1)


class StructureDenoisingValidation:
    """Denoising loss on held-back subjects at fixed noise levels, the same at every call."""

    def __init__(self, editor: StructureEditor, slices: BreastSlices, count: int = 48) -> None:
        self.loss = StructureDenoisingLoss(editor, slices, count)
        generator = torch.Generator().manual_seed(7)
        chosen = torch.randint(len(slices.slices.images), (count,), generator=generator)
        images, breasts, encoded = slices.drawn(chosen, torch.zeros(count, dtype=torch.bool))
        index = torch.linspace(20, len(editor.alpha_bar) - 11, count).round().long()
        noise = torch.randn(images.shape, generator=generator)
        self.drawn = (images, breasts.breast, with_share(encoded, breasts.shares), index, noise)

    def __call__(self, network: nn.Module) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self.loss.of(network, *self.drawn))
