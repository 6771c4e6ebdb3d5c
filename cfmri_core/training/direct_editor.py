"""Train the direct editor on pairs: the same simulated subject under two acquisitions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from cfmri_core.data.pairs import Renderings, load_renderings
from cfmri_core.data.splits import stratified_split
from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import PRESETS, SLICES_SEEN, DirectEditor
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.pipeline.support import fit_training_support, write_training_support
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train

#: Share of factual attributes that are hidden, because headers are incomplete.
HIDDEN_ATTRIBUTE_SHARE = 0.05
#: Weight of air beside tissue, and the normalised intensity from which a pixel counts as tissue.
AIR_WEIGHT, TISSUE_INTENSITY = 0.2, 0.08
#: Added to the mean change of a pair before dividing by it, in normalised intensity: small changes count as much as
#: large ones, down to this.
LEAST_CHANGE = 0.03


def train_direct_editor(
    data: Path,
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 6_000,
    batch_size: int = 16,
    learning_rate: float = 8e-4,
    validation_share: float = 0.08,
    seed: int = 0,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a direct editor on simulated subjects with paired renderings and write it as a model folder.

    Args:
        data: Folder of studies simulated with ``--paired`` (two renderings or more per subject).
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size, see `cfmri_core.models.direct_editor.PRESETS`.
        iterations: Optimiser steps.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, initialisation and batches.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects, no pairs, or an unknown preset.
    """
    torch.manual_seed(seed)
    studies = list_studies(data)
    if len(studies) < 2:
        raise RequestError(f"{data} holds {len(studies)} subject.", "Training needs at least 2; validation takes one.")
    if preset not in PRESETS:
        raise RequestError(f"There is no direct editor preset '{preset}'.", f"Use one of: {', '.join(PRESETS)}.")
    subjects = load_renderings(studies, PRESETS[preset].image_size, progress)
    shares = (1 - validation_share, validation_share)
    fit, held_back = stratified_split(
        [study.patient for study in studies], [subject.parameters[0] for subject in subjects], shares, seed
    )
    spec = ConditionSpec.from_parameters([p for index in fit for p in subjects[index].parameters])
    editor = DirectEditor.create(preset, spec)
    editor.network.to(device)
    score = train(
        editor.network,
        PairLoss(editor, [subjects[index] for index in fit], batch_size),
        PairValidation(editor, [subjects[index] for index in held_back]),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, seed=seed),
        resume=resume,
        progress=progress,
    )
    command = f"cfmri train direct-editor {data} --preset {preset} --iterations {iterations} "
    command += f"--batch-size {batch_size} --seed {seed}"
    folder = output / "model"
    editor.save(folder, _card(editor, len(fit), command, score))
    support = fit_training_support([p for index in fit for p in subjects[index].parameters])
    write_training_support(folder, support, weights_sha256(folder))
    return folder


class PairLoss:
    """Mean absolute error of noise and change, over pairs of renderings of one subject."""

    def __init__(self, editor: DirectEditor, subjects: Sequence[Renderings], batch_size: int) -> None:
        self.editor, self.subjects, self.batch_size = editor, subjects, batch_size
        self.conditions = [editor.spec.encode_all(subject.parameters) for subject in subjects]

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw subjects, slices, pairs of renderings and hidden attributes; return the mean loss."""
        drawn = [self._draw(generator) for _ in range(self.batch_size)]
        images, noise, change, factual, requested = (torch.stack(values) for values in zip(*drawn, strict=True))
        factual, requested = self._hide(factual, requested, generator)
        return self.of(network, images, noise, change, factual, requested)

    def of(
        self, network: nn.Module, images: Tensor, noise: Tensor, change: Tensor, factual: Tensor, requested: Tensor
    ) -> Tensor:
        """Loss of given pairs; images ``(batch, SLICES_SEEN, size, size)``, the others as `DirectEditor` has them."""
        device = self.editor.device
        images, noise, change = images.to(device), noise.to(device), change.to(device)
        editor = DirectEditor(cast("ConditionalUNet", network), self.editor.spec, self.editor.size)
        found_noise, found_change = editor.noise_and_change(images, factual.to(device), requested.to(device))
        clean = images[:, SLICES_SEEN // 2, None] - noise
        tissue = torch.maximum(clean, clean + change) > TISSUE_INTENSITY
        weight = torch.where(tissue, 1.0, AIR_WEIGHT)
        weight = weight / weight.mean(dim=(1, 2, 3), keepdim=True)
        size = (weight * change.abs()).mean(dim=(1, 2, 3), keepdim=True)
        of_change = weight * (found_change - change).abs()
        # Noise and change are judged apart: judged by their sum, the noise would learn to make up for a wrong change.
        of_noise = weight * (found_noise - noise).abs()
        return torch.mean(of_change * (1 + 0.1 / (size + LEAST_CHANGE)) + of_noise)

    def _hide(self, factual: Tensor, requested: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hide attributes of the source, half of them in the request too: what is unknown and not asked for."""
        shape = (len(factual), len(self.editor.spec.blocks))
        hidden = torch.rand(shape, generator=generator) < HIDDEN_ATTRIBUTE_SHARE
        also = hidden & (torch.rand(shape, generator=generator) < 0.5)
        drop = self.editor.spec.drop_attributes
        return drop(factual, ~hidden), drop(requested, ~also)

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One pair: images, noise, change, factual and requested condition."""
        number = int(torch.randint(len(self.subjects), (), generator=generator))
        subject = self.subjects[number]
        renderings, slices = subject.noisy.shape[:2]
        source, target = torch.randint(renderings, (2,), generator=generator).tolist()
        middle = int(torch.randint(slices, (), generator=generator))
        seen = [min(max(middle + offset - SLICES_SEEN // 2, 0), slices - 1) for offset in range(SLICES_SEEN)]
        images = subject.noisy[source][seen].float()
        clean = subject.clean[source, middle, None].float() * subject.gain[source] + subject.offset[source]
        noise = images[SLICES_SEEN // 2, None] - clean
        change = subject.clean[target, middle, None].float() - clean
        conditions = self.conditions[number]
        drawn = (images, noise, change)
        if torch.rand((), generator=generator) < 0.5:
            images, noise, change = (value.flip(-1) for value in drawn)
        return images, noise, change, conditions[source], conditions[target]


class PairValidation:
    """The loss on pairs of held-back subjects, the same at every call."""

    def __init__(self, editor: DirectEditor, subjects: Sequence[Renderings], count: int = 64) -> None:
        self.loss = PairLoss(editor, subjects, count)

    def __call__(self, network: nn.Module) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self.loss(network, torch.Generator().manual_seed(7)))


def _card(editor: DirectEditor, subjects: int, command: str, score: float) -> str:
    parameters = sum(value.numel() for value in editor.network.parameters()) / 1e6
    return model_card(
        "Direct editor: counterfactual acquisition parameters in one evaluation",
        f"Network from three neighbouring slices to noise and change ({parameters:.1f} M parameters, preset "
        f"`{editor.preset}`).",
        data=f"{subjects} simulated training subjects, each under several acquisitions.",
        command=command,
        performance=f"Best pair loss on held-back subjects: {score:.4f}.",
        limitations="It learned from simulated pairs only: what it shows of a scanner is what the simulator assumes "
        "about it, invented styles included. Nothing is known about its results on patients.",
    )
