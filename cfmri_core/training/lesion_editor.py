"""Train the editors of lesions on scans whose lesions are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from cfmri_core.data.lesion_scans import LesionScan, load_lesion_scans
from cfmri_core.data.splits import stratified_split
from cfmri_core.data.studies import Study, list_studies
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.lesion_editor import PRESETS, LesionEditor, PaletteEditor
from cfmri_core.models.network_model import preset_of
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.pipeline.source_support import write_source_support
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.lesion_patches import PatchBatch, PatchSource
from cfmri_core.training.loop import Schedule, train


def train_lesion_editor(
    data: Path | Sequence[Study],
    output: Path,
    *,
    kind: type[LesionEditor] = LesionEditor,
    preset: str = "tiny",
    iterations: int = 3_000,
    batch_size: int = 16,
    learning_rate: float = 1.2e-3,
    validation_share: float = 0.1,
    seed: int = 0,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train an editor of lesions and write it as a model folder.

    Args:
        data: Folder of studies, or the studies; those without a lesion mask are left out.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        kind: `LesionEditor` for the methods `mededit`, `repaint` and `sdedit`, `PaletteEditor` for `palette`.
        preset: Size of a new network, see `cfmri_core.models.lesion_editor.PRESETS`.
        iterations: Optimiser steps.
        batch_size: Patches per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, initialisation, batches and noise.
        start_from: Model folder to go on from instead of a new network.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects with lesions, or an unknown preset.
    """
    torch.manual_seed(seed)
    begun = kind.load(start_from, device) if start_from else None
    config = begun.config if begun else preset_of(PRESETS, preset, kind.kind.replace("_", " "))
    studies = [study for study in (list_studies(data) if isinstance(data, Path) else data) if study.lesion_path]
    fit, held_back = _subjects(studies, config.pixel_mm, validation_share, seed, progress)
    editor = begun or kind.create(preset, ConditionSpec.from_parameters([scan.parameters for scan in fit]))
    editor.network.to(device).requires_grad_(True)
    score = train(
        editor.network,
        LesionLoss(editor, PatchSource(fit, config.image_size, editor.spec), batch_size),
        LesionValidation(editor, PatchSource(held_back, config.image_size, editor.spec)),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, seed=seed),
        resume=resume,
        progress=progress,
    )
    where = data if isinstance(data, Path) else "DATA"
    command = f"cfmri train {kind.kind.replace('_', '-')} {where} --preset {editor.preset} "
    command += f"--iterations {iterations} --batch-size {batch_size} --seed {seed}"
    editor.save(output / "model", _card(editor, len(fit), command, score))
    write_source_support(output / "model", studies, validation_share, seed, progress)
    return output / "model"


def _subjects(
    studies: Sequence[Study], pixel_mm: float, validation_share: float, seed: int, progress: Progress
) -> tuple[list[LesionScan], list[LesionScan]]:
    patients = [study.patient for study in studies]
    if len(set(patients)) < 2:
        raise RequestError(
            f"{len(set(patients))} subjects have a lesion mask.",
            "Training needs at least 2; put lesion.nii.gz beside their series.",
        )
    scans = load_lesion_scans(studies, pixel_mm, progress)
    shares = (1 - validation_share, validation_share)
    fit, held_back = stratified_split(patients, [scan.parameters for scan in scans], shares, seed)
    return [scans[n] for n in fit], [scans[n] for n in held_back]


#: By how many pixels regions are grown in training, one of these per batch.
_REACHES = (0, 3, 12)


class LesionLoss:
    """Error of v over the whole noise range; inside a region for the editor that only ever fills regions."""

    def __init__(self, editor: LesionEditor, source: PatchSource, batch_size: int) -> None:
        self.editor, self.source, self.batch_size = editor, source, batch_size

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch of patches and noise levels; return the mean loss."""
        batch = self.source.draw(self.batch_size, generator)
        index = torch.randint(1, len(self.editor.alpha_bar), (self.batch_size,), generator=generator)
        noise = torch.randn(2, *batch.images.shape, generator=generator)
        return self.of(network, self._grown(batch, generator), index, noise)

    def _grown(self, batch: PatchBatch, generator: torch.Generator) -> PatchBatch:
        """Let the region reach beyond the lesion at times: more to learn from than the few pixels of a lesion."""
        reach = _REACHES[int(torch.randint(len(_REACHES), (), generator=generator))]
        return dataclasses.replace(batch, region=max_pool2d(batch.region, 2 * reach + 1, stride=1, padding=reach))

    def of(self, network: nn.Module, batch: PatchBatch, index: Tensor, noise: Tensor) -> Tensor:
        """Loss of given patches at given noise levels; ``noise`` is that of the patch and that of the filling."""
        device = next(network.parameters()).device
        editor = type(self.editor)(cast("ConditionalUNet", network), self.editor.spec, self.editor.config)
        x0, level = self.editor.config.normalisation.to_network(batch.images), self._level(index)
        x_t, v = level.sqrt() * x0 + (1 - level).sqrt() * noise[0], level.sqrt() * noise[0] - (1 - level).sqrt() * x0
        context = torch.cat([batch.lesion, batch.breast], dim=1)
        is_filling = isinstance(self.editor, PaletteEditor)
        if is_filling:
            x_t = torch.where(batch.region > 0, x_t, x0)
            context = torch.cat([context, torch.where(batch.region > 0, noise[1], x0), batch.region], dim=1)
        predicted = editor.raw(x_t.to(device), index.to(device), batch.condition, context.to(device)).cpu()
        if is_filling:
            return torch.sum(batch.region * (predicted - v) ** 2) / batch.region.sum().clamp(min=1)
        # A weight that depends on what the network is told leaves what it should answer as it is.
        return torch.mean((1 + batch.lesion) * (predicted - v) ** 2)

    def _level(self, index: Tensor) -> Tensor:
        return self.editor.alpha_bar[index][:, None, None, None].float()


class LesionValidation:
    """The same error on held-back subjects at fixed noise levels, the same at every call."""

    def __init__(self, editor: LesionEditor, source: PatchSource, count: int = 96) -> None:
        generator = torch.Generator().manual_seed(7)
        self.loss = LesionLoss(editor, source, count)
        self.batch = source.draw(count, generator)
        self.index = torch.linspace(20, len(editor.alpha_bar) - 11, count).round().long()
        self.noise = torch.randn(2, *self.batch.images.shape, generator=generator)

    def __call__(self, network: nn.Module) -> float:
        """Return the loss."""
        with torch.no_grad():
            return float(self.loss.of(network, self.batch, self.index, self.noise))


def _card(editor: LesionEditor, subjects: int, command: str, score: float) -> str:
    parameters = sum(value.numel() for value in editor.network.parameters()) / 1e6
    extent = editor.config.pixel_mm * editor.config.image_size
    title, after = {
        "lesion_editor": ("Lesion editor", "after MedEdit (Ben Alaya et al., SASHIMI 2024)"),
        "palette_editor": ("Palette editor of lesions", "after Palette (Saharia et al., SIGGRAPH 2022)"),
    }[editor.kind]
    return model_card(
        f"{title}: insert and remove masses",
        f"Conditional diffusion model of patches of {extent:.0f} mm ({parameters:.1f} M parameters, preset "
        f"`{editor.preset}`), {after}.",
        data=f"{subjects} training subjects with lesion masks.",
        command=command,
        performance=f"Best denoising loss on held-back subjects: {score:.4f}.",
        limitations="It knows lesions as its training scans show them. The shipped one learned from simulated "
        "contrast-enhanced scans, whose lesions are invented: it says nothing about patients, and on a scan without "
        "contrast agent it puts lesions that do not belong there.",
    )
