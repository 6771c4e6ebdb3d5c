"""Train the tissue segmenter, with or without augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from cfmri_core.data.studies import SliceSet, Study, list_studies, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.progress import Progress, silent
from cfmri_core.training.augmentation import Augmentation, Batch, augmentation_of, needs_counterfactuals
from cfmri_core.training.card import model_card
from cfmri_core.training.counterfactuals import CounterfactualPlan, counterfactual_images, scan_paths
from cfmri_core.training.loop import Schedule, train

NEW_NETWORK_RATE, FINE_TUNING_RATE = 2e-3, 3e-4


def train_segmenter(
    data: Path | Sequence[Study],
    output: Path,
    *,
    preset: str = "tiny",
    augmentation: str = "none",
    counterfactuals: CounterfactualPlan | None = None,
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
    """Train a segmenter on labelled studies and write it as a model folder; validation uses unaltered scans.

    Args:
        data: Folder of studies, or the studies; those without labels are left out.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of a new network.
        augmentation: One of `cfmri_core.training.augmentation.AUGMENTATIONS`.
        counterfactuals: Needed for the counterfactual ones.
        iterations: Optimiser steps, the same whatever the augmentation.
        batch_size: Slices per step.
        learning_rate: Peak learning rate; ``None`` takes 2e-3 for a new network and 3e-4 when one is trained on.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, weights, batches and augmentation.
        start_from: Model folder to go on from instead of a new network.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: No labelled study, an unknown augmentation, or no editor for it.
    """
    if needs_counterfactuals(augmentation) and counterfactuals is None:
        raise RequestError("Counterfactual augmentation needs an editor.", "Name one with --editor.")
    segmenter = _starting_point(preset, start_from, seed, device)
    studies = labelled_studies(data)
    keeps_aspect = segmenter.config.keeps_aspect
    slices = load_slices(studies, segmenter.image_size, keeps_aspect=keeps_aspect, with_labels=True, progress=progress)
    training, validation = split_slices(slices, validation_share, seed)
    others: list[Tensor] = []
    if needs_counterfactuals(augmentation) and counterfactuals:
        others = counterfactual_images(training, scan_paths(slices, studies), counterfactuals, progress)
    score = fit_segmenter(
        segmenter, training, validation, output,
        augmentation=augmentation_of(augmentation, training, others),
        # A few labelled scans must not wash out what a trained network knows.
        schedule=schedule_of(iterations, seed, learning_rate or (FINE_TUNING_RATE if start_from else NEW_NETWORK_RATE)),
        batch_size=batch_size, resume=resume, progress=progress,
    )  # fmt: skip
    segmenter.save(output / "model", segmenter_card(data, training, validation, augmentation, iterations, seed, score))
    return output / "model"


def labelled_studies(data: Path | Sequence[Study]) -> list[Study]:
    """Return the studies that have labels.

    Raises:
        RequestError: There is none.
    """
    studies = [study for study in (list_studies(data) if isinstance(data, Path) else data) if study.labels_path]
    if not studies:
        raise RequestError("There is no labelled study.", "Add labels.nii.gz beside a series, or submit a label.")
    return studies


def split_slices(slices: SliceSet, validation_share: float, seed: int) -> tuple[SliceSet, SliceSet]:
    """Split by patient into training and validation; a single patient serves as both."""
    fit, held_back = slices.split(validation_share, seed)
    return fit, held_back if held_back.parameters else fit


def schedule_of(iterations: int, seed: int, learning_rate: float = NEW_NETWORK_RATE) -> Schedule:
    """Return how long and how fast a segmenter trains."""
    return Schedule(
        iterations=iterations, learning_rate=learning_rate, average_decay=0.99, validate_every=100, seed=seed
    )


def fit_segmenter(
    segmenter: Segmenter,
    training: SliceSet,
    validation: SliceSet,
    output: Path,
    *,
    augmentation: Augmentation,
    schedule: Schedule,
    batch_size: int = 16,
    resume: bool = False,
    progress: Progress = silent,
) -> float:
    """Train a segmenter in place; afterwards it holds the weights that validated best.

    Args:
        segmenter: Trained in place.
        training: Slices with labels that batches are drawn from.
        validation: Slices with labels that choose the best weights.
        output: Receives ``checkpoint.pt`` and TensorBoard ``events``.
        augmentation: Changes each batch.
        schedule: Length, speed, seed.
        batch_size: Slices per step.
        resume: Go on from the checkpoint in ``output``.
        progress: Progress and cancel.

    Returns:
        One minus the mean Dice of the validation slices.
    """
    return train(
        segmenter.network,
        SegmentationLoss(segmenter, training, augmentation, batch_size),
        ValidationDice(segmenter, validation),
        output,
        schedule,
        resume=resume,
        progress=progress,
    )


class SegmentationLoss:
    """Dice plus cross-entropy on augmented slices."""

    def __init__(self, segmenter: Segmenter, slices: SliceSet, augmentation: Augmentation, batch_size: int) -> None:
        self.segmenter, self.slices, self.batch_size = segmenter, slices, batch_size
        self.augmentation = augmentation
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch and return its loss."""
        chosen = torch.randint(len(self.slices.images), (self.batch_size,), generator=generator)
        batch = self.augmentation(
            Batch(self.slices.images[chosen], _labels(self.slices)[chosen], chosen),
            generator,
        )
        device = next(network.parameters()).device
        logits = Segmenter(network, self.segmenter.config).logits(batch.images.to(device))
        value: Tensor = self.loss(logits, batch.labels[:, None].to(device))
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


def segmenter_card(
    data: Path | Sequence[Study], training: SliceSet, validation: SliceSet, augmentation: str, iterations: int,
    seed: int, score: float,
) -> str:  # fmt: skip
    """Return the model card of a segmenter and of how it was trained; ``score`` is what `fit_segmenter` returned."""
    makers = sorted({str(parameters.manufacturer) for parameters in training.parameters})
    judged = "its own training subjects, none being held back" if validation is training else "held-back subjects"
    where = data if isinstance(data, Path) else "DATA"
    return model_card(
        "Tissue segmenter",
        "Residual U-Net on single slices: background, fat, fibroglandular tissue.",
        data=f"{len(training.parameters)} labelled training subjects, scanned by {', '.join(makers)}.",
        command=f"cfmri train segmenter {where} --augmentation {augmentation} --iterations {iterations} --seed {seed}",
        performance=f"Dice on {judged}, mean of both tissues: {1 - score:.3f}.",
        limitations="Fails on scanners it was not trained on; that is what counterfactual augmentation is for.",
    )


def _starting_point(preset: str, start_from: Path | None, seed: int, device: str) -> Segmenter:
    torch.manual_seed(seed)
    segmenter = Segmenter.load(start_from, device) if start_from else Segmenter.create(preset)
    segmenter.network.to(device).requires_grad_(True)
    return segmenter


def _labels(slices: SliceSet) -> Tensor:
    if slices.labels is None:
        raise RequestError("The studies were read without labels.")
    return slices.labels


def _dice(predicted: Tensor, truth: Tensor) -> float:
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()).clamp(min=1))
