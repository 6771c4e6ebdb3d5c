"""Train the editor: a conditional diffusion model of single slices, unpaired scans only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from cfmri_core.data.studies import SliceSet, Study
from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import PRESETS, Editor
from cfmri_core.models.network_model import preset_of
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.pipeline.support import fit_training_support, write_training_support
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train
from cfmri_core.training.subjects import training_subjects

#: Share of samples trained without any condition, and of single attributes hidden from the others.
UNCONDITIONAL_SHARE = 0.1
HIDDEN_ATTRIBUTE_SHARE = 0.1
#: Blocks of pixels over which the error is averaged, and the variance of block means on the network's scale.
_BLOCK_SIZES, _BLOCK_VARIANCE = (1, 2, 4, 8, 16), 0.3


def train_editor(
    data: Path | Sequence[Study],
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 2_000,
    batch_size: int = 16,
    learning_rate: float = 6e-4,
    validation_share: float = 0.1,
    seed: int = 0,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train an editor and write it as a model folder; paired renderings are never read.

    Args:
        data: Folder of studies (see `list_studies`), or the studies.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of a new network, see `cfmri_core.models.editor.PRESETS`.
        iterations: Optimiser steps.
        batch_size: Slices per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, initialisation, batches and noise.
        start_from: Model folder to fine-tune instead of a new network; its categories and ranges stay.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects.
    """
    torch.manual_seed(seed)
    editor = Editor.load(start_from, device) if start_from else None
    size = editor.image_size if editor else preset_of(PRESETS, preset, "editor").image_size
    keeps_aspect = editor is None or editor.keeps_aspect
    fit, held_back = training_subjects(data, size, validation_share, seed, progress, keeps_aspect=keeps_aspect)
    if editor is None:
        editor = Editor.create(preset, ConditionSpec.from_parameters(fit.parameters))
    editor.network.to(device).requires_grad_(True)
    score = train(
        editor.network,
        DenoisingLoss(editor, fit, batch_size),
        DenoisingValidation(editor, held_back),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, seed=seed),
        resume=resume,
        progress=progress,
    )
    folder = output / "model"
    where = data if isinstance(data, Path) else "DATA"
    command = f"cfmri train editor {where} --preset {editor.preset} --iterations {iterations} "
    command += f"--batch-size {batch_size} --seed {seed}"
    editor.save(folder, _card(editor, len(fit.parameters), command, score))
    write_training_support(folder, fit_training_support(fit.parameters), weights_sha256(folder))
    return folder


class DenoisingLoss:
    """Squared error of the network's own target (noise, or v balanced over scales) over the whole noise range."""

    def __init__(self, editor: Editor, slices: SliceSet, batch_size: int) -> None:
        self.editor, self.slices, self.batch_size = editor, slices, batch_size
        self.conditions = editor.spec.encode_all(slices.parameters)
        self.weights = scanner_weights(slices)
        self.alpha_bar = cosine_alpha_bar()

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch of slices, noise levels and hidden attributes; return the mean loss."""
        chosen = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        images = self.slices.images[chosen]
        mirrored = torch.rand(self.batch_size, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        condition = self._hide(self.conditions[self.slices.subject[chosen]], generator)
        index = torch.randint(1, len(self.alpha_bar), (self.batch_size,), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return self.of(network, images, condition, index, noise)

    def of(self, network: nn.Module, images: Tensor, condition: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Loss of given images ``(batch, 1, size, size)`` at given noise levels."""
        x0 = self.editor.normalisation.to_network(images)
        level = self.alpha_bar[index][:, None, None, None].float()
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        target = noise if self.editor.prediction == "eps" else level.sqrt() * noise - (1 - level).sqrt() * x0
        editor = Editor(cast("ConditionalUNet", network), self.editor.spec, self.editor.config)
        predicted = editor.raw(x_t.to(editor.device), index.to(editor.device), condition)
        error = predicted - target.to(editor.device)
        if self.editor.prediction == "eps":
            return torch.mean(error**2)
        return scale_balanced_square(error, level.to(editor.device))

    def _hide(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        attributes = len(self.editor.spec.blocks)
        keep = torch.rand(len(condition), attributes, generator=generator) >= HIDDEN_ATTRIBUTE_SHARE
        keep &= torch.rand(len(condition), 1, generator=generator) >= UNCONDITIONAL_SHARE
        return self.editor.spec.drop_attributes(condition, keep)


def scanner_weights(slices: SliceSet) -> Tensor:
    """Return how often to draw each slice, float64, shape ``(slices,)``: rare scanners more often than they occur.

    A slice weighs the inverse square root of the number of slices of its scanner model, field strength and scan
    options: half-way between drawing as in the data and drawing every scanner alike.
    """
    scanners = [(p.manufacturer_model, p.field_strength_t, p.scan_options) for p in slices.parameters]
    index = torch.tensor([sorted(set(scanners), key=str).index(scanner) for scanner in scanners])[slices.subject]
    return torch.bincount(index).double()[index].rsqrt()


def scale_balanced_square(error: Tensor, level: Tensor) -> Tensor:
    """Return the mean squared error of v over several scales, each in units of what cannot be known.

    What distinguishes two acquisitions is mostly how bright a tissue is: an error that many pixels share and that a
    mean over pixels hardly sees. Averaged over blocks of s x s pixels it stands out. The conditional mean minimises
    every such sum, so the network that is sought stays the same; it is only found sooner.

    The unit is the posterior variance of a Gaussian image: with block variance P and noise level alpha_bar the error
    of v is ``P / (alpha_bar P s^2 + 1 - alpha_bar)``.

    Args:
        error: Predicted minus true v, shape ``(batch, 1, size, size)``.
        level: alpha_bar of each slice, shape ``(batch, 1, 1, 1)``.
    """
    total = error.new_zeros(())
    for size in _BLOCK_SIZES:
        weight = level * size**2 + (1 - level) / _BLOCK_VARIANCE
        total = total + torch.mean(weight * avg_pool2d(error, size) ** 2)
    return total / len(_BLOCK_SIZES)


class DenoisingValidation:
    """Denoising loss on held-back subjects at fixed noise levels, the same at every call."""

    def __init__(self, editor: Editor, slices: SliceSet, count: int = 64) -> None:
        self.loss = DenoisingLoss(editor, slices, count)
        generator = torch.Generator().manual_seed(7)
        self.chosen = torch.randint(len(slices.images), (count,), generator=generator)
        self.index = torch.linspace(20, len(self.loss.alpha_bar) - 11, count).round().long()
        self.noise = torch.randn(slices.images[self.chosen].shape, generator=generator)

    def __call__(self, network: nn.Module) -> float:
        """Return the loss."""
        slices = self.loss.slices
        condition = self.loss.conditions[slices.subject[self.chosen]]
        with torch.no_grad():
            return float(self.loss.of(network, slices.images[self.chosen], condition, self.index, self.noise))


def _card(editor: Editor, subjects: int, command: str, score: float) -> str:
    parameters = sum(value.numel() for value in editor.network.parameters()) / 1e6
    return model_card(
        "Editor: counterfactual acquisition parameters",
        f"Conditional diffusion model of single slices ({parameters:.1f} M parameters, preset `{editor.preset}`), "
        "after Morão et al., MIDL 2025.",
        data=f"{subjects} training subjects, each under its own acquisition parameters only.",
        command=command,
        performance=f"Best denoising loss on held-back subjects: {score:.4f}.",
        limitations="Trained on simulated breasts it says nothing about patients; outside the parameters listed in "
        "model.json it only extrapolates.",
    )
