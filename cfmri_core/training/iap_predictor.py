"""Train the predictor of acquisition parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cfmri_core.data.studies import SliceSet, list_studies, load_slices, split_subjects
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import PRESETS, IapPredictor, inverse_class_frequency
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train


def train_iap_predictor(
    data: Path,
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 2_000,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    validation_share: float = 0.1,
    seed: int = 0,
    start_from: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a predictor on a folder of studies and write it as a model folder.

    Classes are weighted by inverse frequency over subjects (the paper counts slices, which weighs
    subjects by their number of slices).

    Args:
        data: Folder of studies.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of a new network.
        iterations: Optimiser steps.
        batch_size: Slices per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of everything random.
        start_from: Model folder to go on from instead of a new network.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects.
    """
    torch.manual_seed(seed)
    studies = list_studies(data)
    if len(studies) < 2:
        raise RequestError(f"{data} holds {len(studies)} subject.", "Training needs at least 2; validation takes one.")
    predictor = IapPredictor.load(start_from, device) if start_from else None
    size = predictor.image_size if predictor else PRESETS[preset].image_size
    slices = load_slices(studies, size, progress=progress)
    fit, held_back = split_subjects(len(studies), validation_share, seed)
    if predictor is None:
        spec = ConditionSpec.from_parameters([slices.parameters[subject] for subject in fit])
        predictor = IapPredictor.create(preset, spec)
    predictor.network.to(device).requires_grad_(True)
    score = train(
        predictor.network,
        PredictionLoss(predictor, slices.of_subjects(fit), batch_size),
        PredictionValidation(predictor, slices.of_subjects(held_back)),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, average_decay=0.99, seed=seed),
        resume=resume,
        progress=progress,
    )
    card = model_card(
        "Predictor of image acquisition parameters",
        f"ResNet-18 on single slices (preset `{predictor.preset}`): weighted cross-entropy plus squared error.",
        data=f"{len(fit)} training subjects.",
        command=f"cfmri train iap-predictor {data} --preset {predictor.preset} --iterations {iterations} --seed {seed}",
        performance=f"Best loss on held-back subjects, summed over the parameters: {score:.4f}.",
        limitations="Within one manufacturer the echo time hardly varies, so it is read off the vendor's look.",
    )
    predictor.save(output / "model", card)
    return output / "model"


class PredictionLoss:
    """Loss of random slices, mirrored at random."""

    def __init__(self, predictor: IapPredictor, slices: SliceSet, batch_size: int) -> None:
        self.predictor, self.slices, self.batch_size = predictor, slices, batch_size
        self.targets = predictor.spec.encode_all(slices.parameters)
        self.weights = inverse_class_frequency(predictor.spec, self.targets)

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch and return its loss."""
        chosen = torch.randint(len(self.slices.images), (self.batch_size,), generator=generator)
        images = self.slices.images[chosen]
        mirrored = torch.rand(self.batch_size, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        predictor = IapPredictor(network, self.predictor.spec, self.predictor.config)
        weights = {name: weight.to(predictor.device) for name, weight in self.weights.items()}
        targets = self.targets[self.slices.subject[chosen]]
        return predictor.loss(images.to(predictor.device), targets.to(predictor.device), weights)


class PredictionValidation:
    """Unweighted loss over all slices of held-back subjects."""

    def __init__(self, predictor: IapPredictor, slices: SliceSet) -> None:
        self.predictor, self.slices = predictor, slices
        self.targets = predictor.spec.encode_all(slices.parameters)[slices.subject]

    def __call__(self, network: nn.Module) -> float:
        """Return the mean loss."""
        predictor = IapPredictor(network, self.predictor.spec, self.predictor.config)
        total = 0.0
        with torch.no_grad():
            for images, targets in zip(torch.split(self.slices.images, 64), torch.split(self.targets, 64), strict=True):
                loss = predictor.loss(images.to(predictor.device), targets.to(predictor.device))
                total += float(loss) * len(images)
        return total / len(self.slices.images)
