"""Train the tissue segmenter, optionally on counterfactuals of its labelled scans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import SliceSet, Study, list_studies, load_slices, split_subjects
from cfmri_core.errors import RequestError
from cfmri_core.models.editor import Editor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.counterfactual import edit_images
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.protocols import draw_protocol
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train

AUGMENTATIONS = ("none", "counterfactual")
#: Share of a batch that is replaced by the slice's counterfactual.
COUNTERFACTUAL_SHARE = 0.5
NEW_NETWORK_RATE, FINE_TUNING_RATE = 2e-3, 3e-4


def train_segmenter(
    data: Path | Sequence[Study],
    output: Path,
    *,
    preset: str = "tiny",
    augmentation: str = "none",
    editor: Editor | None = None,
    counterfactuals_per_volume: int = 2,
    iterations: int = 600,
    batch_size: int = 16,
    learning_rate: float | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a segmenter on labelled studies and write it as a model folder.

    Counterfactual augmentation shows each labelled volume as other protocols of the published Duke
    distribution would have; no header of any other study is looked at. Whole volumes get one target,
    so neighbouring slices stay one scanner. Validation uses unaltered scans.

    Args:
        data: Folder of studies, or the studies; those without labels are left out.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of a new network.
        augmentation: ``none`` or ``counterfactual``.
        editor: Needed for ``counterfactual``.
        counterfactuals_per_volume: Targets per labelled volume.
        iterations: Optimiser steps, the same in every arm.
        batch_size: Slices per step.
        learning_rate: Peak learning rate; ``None`` takes 2e-3 for a new network, and 3e-4 when one is trained on, so
            that a few labelled scans do not wash out what it knows.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of everything random.
        start_from: Model folder to go on from instead of a new network.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: No labelled study, an unknown augmentation, or no editor for it.
    """
    if augmentation not in AUGMENTATIONS:
        raise RequestError(f"'{augmentation}' is not an augmentation.", f"Use one of: {', '.join(AUGMENTATIONS)}.")
    studies = [study for study in (list_studies(data) if isinstance(data, Path) else data) if study.labels_path]
    if not studies:
        raise RequestError("There is no labelled study.", "Add labels.nii.gz beside a series, or submit a label.")
    torch.manual_seed(seed)
    segmenter = Segmenter.load(start_from, device) if start_from else Segmenter.create(preset)
    segmenter.network.to(device).requires_grad_(True)
    slices = load_slices(studies, segmenter.image_size, with_labels=True, progress=progress)
    fit, held_back = split_subjects(len(studies), validation_share, seed)
    training, validation = slices.of_subjects(fit), slices.of_subjects(held_back or fit)
    others: list[Tensor] = []
    if augmentation == "counterfactual":
        if editor is None:
            raise RequestError("Counterfactual augmentation needs an editor.", "Name one with --editor.")
        others = counterfactual_images(training, editor, counterfactuals_per_volume, seed, progress)
    peak = learning_rate or (FINE_TUNING_RATE if start_from else NEW_NETWORK_RATE)
    score = train(
        segmenter.network,
        SegmentationLoss(segmenter, training, others, batch_size),
        ValidationDice(segmenter, validation),
        output,
        Schedule(iterations=iterations, learning_rate=peak, average_decay=0.99, validate_every=100, seed=seed),
        resume=resume,
        progress=progress,
    )
    segmenter.save(output / "model", _card(data, training, augmentation, iterations, seed, score))
    return output / "model"


def counterfactual_images(
    slices: SliceSet, editor: Editor, per_volume: int, seed: int, progress: Progress = silent
) -> list[Tensor]:
    """Edit every labelled slice to ``per_volume`` other protocols.

    Returns:
        ``per_volume`` tensors shaped and ordered like ``slices.images``.
    """
    edited = [slices.images.clone() for _ in range(per_volume)]
    total = per_volume * len(slices.parameters)
    for subject, factual in enumerate(slices.parameters):
        where = slices.subject == subject
        for repeat in range(per_volume):
            rng = np.random.default_rng((seed, 8, subject, repeat))
            target = _protocol_of_another_model(rng, factual)
            edited[repeat][where] = edit_images(slices.images[where], factual, target, editor, seed=seed + repeat)
            progress(subject * per_volume + repeat + 1, total, "counterfactuals of the labelled scans")
    return edited


class SegmentationLoss:
    """Dice plus cross-entropy on slices, mirrored at random, some shown as their counterfactual."""

    def __init__(self, segmenter: Segmenter, slices: SliceSet, others: Sequence[Tensor], batch_size: int) -> None:
        self.segmenter, self.slices, self.others, self.batch_size = segmenter, slices, others, batch_size
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch and return its loss."""
        all_labels = _labels(self.slices)
        chosen = torch.randint(len(self.slices.images), (self.batch_size,), generator=generator)
        images, labels = self.slices.images[chosen], all_labels[chosen][:, None]
        variant = torch.randint(max(1, len(self.others)), (self.batch_size,), generator=generator)
        shown = torch.rand(self.batch_size, generator=generator) < COUNTERFACTUAL_SHARE
        if self.others:
            altered = torch.stack([self.others[int(v)][int(c)] for v, c in zip(variant, chosen, strict=True)])
            images = torch.where(shown[:, None, None, None], altered, images)
        mirrored = (torch.rand(self.batch_size, generator=generator) < 0.5)[:, None, None, None]
        images, labels = torch.where(mirrored, images.flip(-1), images), torch.where(mirrored, labels.flip(-1), labels)
        device = next(network.parameters()).device
        logits = Segmenter(network, self.segmenter.config).logits(images.to(device))
        value: Tensor = self.loss(logits, labels.to(device))
        return value


class ValidationDice:
    """One minus the mean Dice of fat and fibroglandular tissue over held-back subjects."""

    def __init__(self, segmenter: Segmenter, slices: SliceSet) -> None:
        self.segmenter, self.slices = segmenter, slices

    def __call__(self, network: nn.Module) -> float:
        """Return 1 - Dice."""
        device = next(network.parameters()).device
        with torch.no_grad():
            batches = torch.split(self.slices.images, 32)
            segmenter = Segmenter(network, self.segmenter.config)
            predicted = torch.cat([segmenter.logits(batch.to(device)).argmax(1).cpu() for batch in batches])
        labels = _labels(self.slices)
        scores = [_dice(predicted == value, labels == value) for value in (1, 2)]
        return 1 - sum(scores) / len(scores)


def _labels(slices: SliceSet) -> Tensor:
    if slices.labels is None:
        raise RequestError("The studies were read without labels.")
    return slices.labels


def _dice(predicted: Tensor, truth: Tensor) -> float:
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()).clamp(min=1))


def _protocol_of_another_model(rng: np.random.Generator, factual: AcquisitionParameters) -> AcquisitionParameters:
    while True:
        target = draw_protocol(rng)
        if target.manufacturer_model != factual.manufacturer_model:
            return target


def _card(
    data: Path | Sequence[Study], slices: SliceSet, augmentation: str, iterations: int, seed: int, score: float
) -> str:
    makers = sorted({str(parameters.manufacturer) for parameters in slices.parameters})
    where = data if isinstance(data, Path) else "DATA"
    return model_card(
        "Tissue segmenter",
        "Residual U-Net on single slices: background, fat, fibroglandular tissue.",
        data=f"{len(slices.parameters)} labelled training subjects, scanned by {', '.join(makers)}.",
        command=f"cfmri train segmenter {where} --augmentation {augmentation} --iterations {iterations} --seed {seed}",
        performance=f"Dice on held-back subjects of the same kind, mean of both tissues: {1 - score:.3f}.",
        limitations="Fails on scanners it was not trained on; that is what counterfactual augmentation is for.",
    )
