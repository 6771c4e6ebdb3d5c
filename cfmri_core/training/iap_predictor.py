"""Train the predictor of acquisition parameters, and calibrate it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cfmri_core.data.studies import SliceSet, Study
from cfmri_core.models.calibration import fit_calibration
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import PRESETS, IapPredictor, neighbours, volume_outputs
from cfmri_core.models.network_model import preset_of
from cfmri_core.pipeline.prediction import inner_slices
from cfmri_core.pipeline.trust import fit_predictor_support, write_predictor_support
from cfmri_core.progress import Progress, silent
from cfmri_core.training.balance import inverse_class_frequency, inverse_spread
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train
from cfmri_core.training.subjects import training_subjects


def train_iap_predictor(
    data: Path | Sequence[Study],
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

    The held-back subjects choose the best weights, and then fit the calibration.

    Args:
        data: Folder of studies, or the studies.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Architecture and size of a new network, see `cfmri_core.models.iap_predictor.PRESETS`.
        iterations: Optimiser steps.
        batch_size: Slices per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back.
        seed: Seed of everything random.
        start_from: Model folder to go on from instead of a new network.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: Fewer than two subjects, or no such preset.
    """
    torch.manual_seed(seed)
    predictor = IapPredictor.load(start_from, device) if start_from else None
    size = predictor.image_size if predictor else preset_of(PRESETS, preset, "predictor").image_size
    keeps_aspect = predictor is None or predictor.config.keeps_aspect
    fit, held_back = training_subjects(data, size, validation_share, seed, progress, keeps_aspect=keeps_aspect)
    if predictor is None:
        predictor = IapPredictor.create(preset, ConditionSpec.from_parameters(fit.parameters))
    predictor.network.to(device).requires_grad_(True)
    loss = PredictionLoss(predictor, fit, batch_size)
    schedule = Schedule(iterations=iterations, learning_rate=learning_rate, average_decay=0.995, seed=seed)
    validation = PredictionValidation(predictor, held_back, loss.error_weights)
    score = train(predictor.network, loss, validation, output, schedule, resume=resume, progress=progress)
    predictor.manufacturers = {**predictor.manufacturers, **_manufacturers(fit)}
    calibrate(predictor, held_back, loss.class_weights)
    where = data if isinstance(data, Path) else "DATA"
    command = f"cfmri train iap-predictor {where} --preset {predictor.preset} --iterations {iterations}"
    card = _card(predictor, fit, held_back, f"{command} --batch-size {batch_size} --seed {seed}", score)
    predictor.save(output / "model", card)
    written = IapPredictor.load(output / "model", device)
    write_predictor_support(output / "model", fit_predictor_support(fit, held_back, written), written.sha256)
    return output / "model"


class PredictionLoss:
    """Loss of random slices, mirrored at random.

    Nothing else is altered: blurring, noise, scaling or resampling would destroy what the predictor
    has to read. Classes are weighted by inverse frequency over subjects (the paper counts slices,
    which weighs subjects by their number of slices).
    """

    def __init__(self, predictor: IapPredictor, slices: SliceSet, batch_size: int) -> None:
        self.predictor, self.slices, self.batch_size = predictor, slices, batch_size
        self.targets = predictor.spec.encode_all(slices.parameters)
        self.class_weights = inverse_class_frequency(predictor.spec, self.targets)
        self.error_weights = inverse_spread(predictor.spec, self.targets)
        self.neighbours = neighbours(slices.subject, predictor.config.input_slices)

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch and return its loss."""
        chosen = torch.randint(len(self.slices.images), (self.batch_size,), generator=generator)
        images = self.slices.images[self.neighbours[chosen], 0]
        mirrored = torch.rand(self.batch_size, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        predictor = IapPredictor(network, self.predictor.spec, self.predictor.config)
        device = predictor.device
        weights = {name: weight.to(device) for name, weight in self.class_weights.items()}
        targets = self.targets[self.slices.subject[chosen]]
        return predictor.loss(images.to(device), targets.to(device), weights, self.error_weights)


class PredictionValidation:
    """Loss over all slices of held-back subjects, every class as frequent as it is."""

    def __init__(self, predictor: IapPredictor, slices: SliceSet, error_weights: dict[str, float]) -> None:
        self.predictor, self.slices, self.error_weights = predictor, slices, error_weights
        self.targets = predictor.spec.encode_all(slices.parameters)[slices.subject]
        self.neighbours = neighbours(slices.subject, predictor.config.input_slices)

    def __call__(self, network: nn.Module) -> float:
        """Return the mean loss."""
        predictor = IapPredictor(network, self.predictor.spec, self.predictor.config)
        device, total = predictor.device, 0.0
        with torch.no_grad():
            for index, targets in zip(torch.split(self.neighbours, 64), torch.split(self.targets, 64), strict=True):
                images = self.slices.images[index, 0]
                total += len(index) * float(
                    predictor.loss(images.to(device), targets.to(device), None, self.error_weights)
                )
        return total / len(self.slices.images)


def calibrate(predictor: IapPredictor, slices: SliceSet, class_weights: dict[str, Tensor]) -> None:
    """Fit the predictor's calibration to subjects it was not trained on, one answer per volume as in prediction.

    Args:
        predictor: Its calibration is replaced.
        slices: Slices of the subjects.
        class_weights: Weights of the training, per categorical attribute.
    """
    volumes = [
        volume_outputs(inner_slices(predictor.slice_outputs(slices.images[slices.subject == subject])))
        for subject in range(len(slices.parameters))
    ]
    spec = predictor.spec
    outputs = {name: torch.stack([volume[name] for volume in volumes]) for name in spec.blocks}
    outputs = {name: output[:, 0] if name in spec.ranges else output for name, output in outputs.items()}
    predictor.calibration = fit_calibration(spec, outputs, spec.encode_all(slices.parameters), class_weights)


def _manufacturers(slices: SliceSet) -> dict[str, str]:
    pairs = {(item.manufacturer_model, item.manufacturer) for item in slices.parameters}
    return {model: maker for model, maker in pairs if model is not None and maker is not None}


def _card(predictor: IapPredictor, fit: SliceSet, held_back: SliceSet, command: str, score: float) -> str:
    networks = {
        "resnet": "ResNet-18 with batch normalisation",
        "detail-resnet": "ResNet-18 with batch normalisation, fine detail as a further channel",
        "texture": "Plain convolutions with standardised weights; statistics of every stage",
    }
    calibration, ranges = predictor.calibration, predictor.spec.ranges
    errors = ", ".join(f"{name} {calibration.standard_deviations.get(name, float('nan')):.3g}" for name in ranges)
    return model_card(
        "Predictor of image acquisition parameters",
        f"{networks[predictor.config.architecture]}, {predictor.config.input_slices} neighbouring slices (preset "
        f"`{predictor.preset}`): weighted cross-entropy plus weighted squared error. Over the slices of a volume "
        "logits are averaged and the median of each quantity is taken.",
        data=f"{len(fit.parameters)} training subjects; {len(held_back.parameters)} held-back subjects chose the best "
        "weights and fitted the calibration.",
        command=command,
        performance=f"Best loss on held-back subjects, summed over the parameters: {score:.4f}. Root mean square "
        f"errors on them: {errors}.",
        limitations="Within one manufacturer the echo time hardly varies, so it is read off the vendor's look. The "
        "calibration holds for scans like those held back.",
    )
