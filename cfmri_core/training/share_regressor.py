"""A regressor of the fibroglandular share of a slice: the judge of Reg-CFT, the baseline of Seg-CFT."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cfmri_core.models.structure_editor import GREATEST_SHARE, LEAST_SHARE, MIDDLE_SHARE
from cfmri_core.models.texture_network import TextureNetwork
from cfmri_core.progress import Progress, silent
from cfmri_core.training.loop import Schedule, train
from cfmri_core.training.structure_denoising import BreastSlices

_WIDTHS = (16, 24, 32, 48)


class ShareRegressor(nn.Module):
    """A small convolutional network from a slice to the logarithm of its share."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TextureNetwork(1, _WIDTHS, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised slices ``(batch, 1, size, size)`` to log(share / `MIDDLE_SHARE`), ``(batch,)``."""
        values: Tensor = self.network(images)
        return values[:, 0]


def train_share_regressor(
    training: BreastSlices,
    validation: BreastSlices,
    output: Path,
    schedule: Schedule,
    resume: bool,
    progress: Progress = silent,
    batch_size: int = 16,
) -> ShareRegressor:
    """Train a regressor on shares as the editor's segmenter reads them.

    Args:
        training: Slices that batches are drawn from.
        validation: Slices that choose the best weights.
        output: Receives ``checkpoint.pt`` and TensorBoard ``events``.
        schedule: Length, speed, seed.
        resume: Go on from the checkpoint in ``output``.
        progress: Progress and cancel.
        batch_size: Slices per step.
    """
    device = training.conditions.device
    regressor = ShareRegressor().to(device)

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(training.slices.images), (batch_size,), generator=generator)
        images, breasts, _ = training.drawn(chosen, torch.rand(batch_size, generator=generator) < 0.5)
        return nn.functional.huber_loss(network(images.to(device)), _told(breasts.shares).to(device), delta=0.5)

    def validate(network: nn.Module) -> float:
        with torch.no_grad():
            read = torch.cat([network(images.to(device)) for images in torch.split(validation.slices.images, 32)])
        return float((read.cpu() - _told(validation.breasts.shares)).abs().mean())

    train(regressor, loss, validate, output, schedule, resume=resume, progress=progress)
    return regressor


def _told(shares: Tensor) -> Tensor:
    return torch.log(shares.clamp(LEAST_SHARE, GREATEST_SHARE) / MIDDLE_SHARE)
