"""Train the structure editor: segmenters, a diffusion model that knows the fibroglandular share, and its fine-tuning.

The trainings follow one another, each with a checkpoint of its own below the output: ``segmenter`` and ``reader``
(unless they are given), ``base``, ``seg-cft``, and for the comparison ``regressor`` and ``reg-cft``. Labels are needed
for the segmenters only.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cfmri_core.data.studies import Study, list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.network_model import preset_of
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import BASE, PRESETS, REG_CFT, SEG_CFT, StructureEditor
from cfmri_core.pipeline.source_support import write_source_support
from cfmri_core.pipeline.structure_images import TUNED_CHANGES
from cfmri_core.progress import Progress, TrainingStep, silent
from cfmri_core.training.augmentation import RANDOMISED
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train
from cfmri_core.training.segmenter import train_segmenter
from cfmri_core.training.share_regressor import train_share_regressor
from cfmri_core.training.structure_counterfactuals import (
    CounterfactualLoss,
    CounterfactualValidation,
    RegressorTarget,
    SegmenterTarget,
    TunedNetwork,
)
from cfmri_core.training.structure_denoising import BreastSlices, StructureDenoisingLoss, StructureDenoisingValidation

#: Part of a training: its share of the asked iterations, see `train_structure_editor`.
_SHARES = {"segmenter": 0.5, "reader": 0.5, BASE: 1.0, SEG_CFT: 0.6, "regressor": 0.1, REG_CFT: 0.08}
#: Peak learning rates of a new denoiser and of its fine-tuning.
BASE_RATE, TUNING_RATE = 8e-4, 1e-3
#: Slices per step of the fine-tuning: an edit and its gradient take several times what a denoising step takes.
TUNING_BATCH = 6


@dataclass(frozen=True)
class _Run:
    """What all parts of a training share."""

    editor: StructureEditor
    judges: Sequence[Segmenter]
    training: BreastSlices
    validation: BreastSlices
    output: Path
    iterations: int
    batch_size: int
    seed: int
    resume: bool
    progress: Progress

    def told(self, part: str) -> Progress:
        return _part_of_whole(part, self.iterations, self.progress)

    def schedule(self, part: str, learning_rate: float, validate_every: int) -> Schedule:
        steps = _steps(part, self.iterations)
        decay = 0.999 if part == BASE else 0.98
        return Schedule(
            iterations=steps,
            learning_rate=learning_rate,
            average_decay=decay,
            validate_every=min(validate_every, steps),
            seed=self.seed,
        )


def train_structure_editor(
    data: Path | Sequence[Study],
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 1_600,
    batch_size: int = 8,
    validation_share: float = 0.08,
    seed: int = 0,
    segmenter: Path | None = None,
    reader: Path | None = None,
    judges: Sequence[Path] = (),
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a structure editor and write it as a model folder.

    Args:
        data: Folder of studies (see `list_studies`), or the studies.
        output: Receives ``model`` and one folder with checkpoint and TensorBoard events for each part.
        preset: Size of new denoisers, see `cfmri_core.models.structure_editor.PRESETS`.
        iterations: Optimiser steps of the diffusion model; the other parts take fixed shares of it.
        batch_size: Slices per step of the diffusion model; its fine-tuning takes `TUNING_BATCH` at most.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of splits, initialisation, batches and noise.
        segmenter: Segmenter that finds the breast and leads the fine-tuning, which must not mind the contrast of scans;
            ``None`` trains one on the labelled studies, half of what it sees with random contrast.
        reader: Segmenter that measures finished volumes, likewise, finer.
        judges: Further segmenters at working resolution, so that the fine-tuning learns none by heart.
        start_from: Model folder to go on from: its segmenters and its diffusion model, which is trained on; the
            fine-tuning is done anew.
        resume: Go on from the checkpoints in ``output``.
        device: Torch device.
        progress: Progress and cancel; steps count over all parts.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects, no breast in them, or labels for the segmenter are lacking.
    """
    torch.manual_seed(seed)
    studies = list_studies(data) if isinstance(data, Path) else list(data)
    if len({study.patient for study in studies}) < 2:
        raise RequestError("The training data hold fewer than 2 subjects.", "Validation takes one of them.")
    size = preset_of(PRESETS, preset, "structure editor").image_size
    begun = StructureEditor.load(start_from, device) if start_from else None
    slices = load_slices(studies, begun.image_size if begun else size, progress=progress)
    places = _Segmenters(studies, output, iterations, seed, resume, device, progress)
    editor = begun or StructureEditor.create(
        preset,
        ConditionSpec.from_parameters(slices.parameters),
        places.trained("segmenter", "tiny", segmenter),
        places.trained("reader", "fine", reader),
    )
    editor.network.to(device).requires_grad_(True)
    for network in (editor.network.segmenter, editor.network.reader):
        network.eval().requires_grad_(False)
    fit, held_back = (BreastSlices.of(part, editor) for part in slices.split(validation_share, seed))
    others = [Segmenter.load(locate_model("segmenter", judge), device) for judge in judges]
    run = _Run(editor, others, fit, held_back, output, iterations, batch_size, seed, resume, progress)
    scores = {BASE: _train_base(run), SEG_CFT: _fine_tune(run, SEG_CFT), REG_CFT: _fine_tune(run, REG_CFT)}
    where = data if isinstance(data, Path) else "DATA"
    command = f"cfmri train structure-editor {where} --preset {editor.preset} --iterations {iterations} "
    command += f"--batch-size {batch_size} --seed {seed}"
    editor.save(output / "model", _card(editor, len(fit.slices.parameters), command, scores))
    write_source_support(output / "model", studies, validation_share, seed, progress)
    return output / "model"


@dataclass(frozen=True)
class _Segmenters:
    """Where the segmenters of a new editor come from."""

    studies: Sequence[Study]
    output: Path
    iterations: int
    seed: int
    resume: bool
    device: str
    progress: Progress

    def trained(self, part: str, preset: str, folder: Path | None) -> Segmenter:
        """Load the one that is given, or train one."""
        if folder is None:
            folder = train_segmenter(
                self.studies, self.output / part, preset=preset, augmentation=RANDOMISED, seed=self.seed,
                resume=self.resume, device=self.device, iterations=_steps(part, self.iterations),
                progress=_part_of_whole(part, self.iterations, self.progress),
            )  # fmt: skip
        return Segmenter.load(locate_model("segmenter", folder), self.device)


def _steps(part: str, iterations: int) -> int:
    return max(1, round(iterations * _SHARES[part]))


def _train_base(run: _Run) -> float:
    network = run.editor.denoiser(BASE)
    return train(
        network,
        StructureDenoisingLoss(run.editor, run.training, run.batch_size),
        StructureDenoisingValidation(run.editor, run.validation),
        run.output / BASE,
        run.schedule(BASE, BASE_RATE, 200),
        resume=run.resume,
        progress=run.told(BASE),
    )


def _fine_tune(run: _Run, name: str) -> float:
    """Fine-tune a copy of the diffusion model until edits reach what is asked for, as the frozen judge sees it."""
    editor = run.editor
    if name == SEG_CFT:
        target: SegmenterTarget | RegressorTarget = SegmenterTarget(editor, run.judges)
    else:
        schedule = run.schedule("regressor", 1e-3, 100)
        regressor = train_share_regressor(
            run.training, run.validation, run.output / "regressor", schedule, run.resume,
            run.told("regressor"),
        )  # fmt: skip
        target = RegressorTarget(regressor)
    base = copy.deepcopy(editor.denoiser(BASE)).eval().requires_grad_(False)
    tuned = TunedNetwork(base)
    batch_size = min(TUNING_BATCH, run.batch_size)
    denoising = StructureDenoisingLoss(editor, run.training, batch_size)
    score = train(
        tuned,
        CounterfactualLoss(editor, base, target, denoising, run.training, batch_size, TUNED_CHANGES[name]),
        CounterfactualValidation(editor, target, run.validation, TUNED_CHANGES[name]),
        run.output / name,
        run.schedule(name, TUNING_RATE, 60),
        resume=run.resume,
        progress=run.told(name),
    )
    editor.denoiser(name).load_state_dict(tuned.network.state_dict())
    return score


def _part_of_whole(part: str, iterations: int, progress: Progress) -> Progress:
    """Tell how far the whole training is while a part of it reports; numbers that the message carries stay."""
    lengths = {name: _steps(name, iterations) for name in _SHARES}
    before = sum(lengths[name] for name in list(_SHARES)[: list(_SHARES).index(part)])

    def report(step: int, total: int, message: str) -> None:
        if not isinstance(message, TrainingStep):
            progress(step, total, message)
            return
        told = TrainingStep(
            f"{part}: {message}",
            loss=message.loss,
            best_score=message.best_score,
            kept_step=before + message.kept_step,
        )
        progress(before + step, sum(lengths.values()), told)

    return report


def _card(editor: StructureEditor, subjects: int, command: str, scores: dict[str, float]) -> str:
    parameters = sum(value.numel() for value in editor.denoiser(BASE).parameters()) / 1e6
    return model_card(
        "Structure editor: more or less fibroglandular tissue",
        f"Three networks of single slices ({parameters:.1f} M parameters each, preset `{editor.preset}`): a "
        "conditional diffusion model `base`; and networks that began with its weights, change the share in one "
        "evaluation, and were fine-tuned against a frozen segmenter (`seg-cft`) or a frozen regressor of the share "
        "(`reg-cft`), with the diffusion model as the prior. Two segmenters are part of the model: one finds the "
        "breast and led the fine-tuning, the other, finer, measures the share.",
        data=f"{subjects} training subjects. Shares are those that the segmenter reads.",
        command=command,
        performance=f"On held-back subjects: denoising loss of the diffusion model {scores[BASE]:.4f}; mean absolute "
        f"logarithm of reached over asked, each by its own judge: seg-cft {scores[SEG_CFT]:.3f}, reg-cft "
        f"{scores[REG_CFT]:.3f}. See EVALUATION.md for what another segmenter sees.",
        limitations="Trained on simulated breasts it says nothing about patients. `reg-cft` is a baseline: it reaches "
        "the share by shifting intensities. Which tissue grows is invented: one of many counterfactuals.",
    )
