"""The predictor of image acquisition parameters (IAP) from slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from monai.networks.nets import ResNet
from torch import Tensor, nn

from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.model_folder import checked_config, load_weights, read_model, write_model
from cfmri_core.models.precision import autocast


@dataclass(frozen=True)
class IapPredictorConfig:
    """Size of a predictor.

    Attributes:
        preset: Name of the preset.
        image_size: Rows and columns of a slice, in pixels.
        widths: Channels of the four stages.
    """

    preset: str
    image_size: int
    widths: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IapPredictorConfig:
        """Build from what `to_json` returned."""
        return cls(**{**values, "widths": tuple(values["widths"])})


PRESETS: Mapping[str, IapPredictorConfig] = {
    "paper": IapPredictorConfig("paper", 224, (64, 128, 256, 512)),
    "tiny": IapPredictorConfig("tiny", 96, (16, 32, 64, 128)),
}


class IapPredictor:
    """A residual network with one linear head: logits per category, one value per continuous attribute.

    Continuous values are in units of the attribute's half-range, as in `ConditionSpec`.

    Attributes:
        network: The ResNet, float32.
        spec: Attributes, their categories and ranges.
        config: Size.
        sha256: Checksum of the weights file this was loaded from, empty for a new predictor.
    """

    def __init__(self, network: nn.Module, spec: ConditionSpec, config: IapPredictorConfig, sha256: str = "") -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config
        self.sha256 = sha256

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained predictor.

        Raises:
            RequestError: There is no such preset.
        """
        if preset not in PRESETS:
            raise RequestError(f"There is no predictor preset '{preset}'.", f"Use one of: {', '.join(PRESETS)}.")
        return cls(_build(PRESETS[preset], spec), spec, PRESETS[preset])

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a predictor from its model folder, ready to predict.

        Raises:
            CheckpointError: The folder is not a whole, undamaged predictor.
        """
        values, state, sha256 = read_model(folder, "iap_predictor")
        with checked_config(folder):
            spec = ConditionSpec.from_json(values["spec"])
            config = IapPredictorConfig.from_json(values["iap_predictor"])
            network = _build(config, spec)
        load_weights(network, state, folder)
        return cls(network.to(device).eval().requires_grad_(False), spec, config, sha256)

    def save(self, folder: Path, card: str, half: bool = True) -> None:
        """Write the predictor as a model folder."""
        values = {"spec": self.spec.to_json(), "iap_predictor": self.config.to_json()}
        write_model(folder, "iap_predictor", self.network, values, card, half)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.config.preset

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""
        return self.config.image_size

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images: Slices in normalised intensity, float32, shape ``(batch, 1, rows, cols)``.

        Returns:
            Per attribute: logits ``(batch, n_categories)``, or unit values ``(batch, 1)``; float32.
        """
        with autocast(images.device):
            head: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return dict(zip(ATTRIBUTES, torch.split(head.float(), _head_widths(self.spec), dim=1), strict=True))

    def loss(self, images: Tensor, targets: Tensor, class_weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return weighted cross-entropy plus squared error, summed over the attributes.

        Args:
            images: Slices in normalised intensity, float32, shape ``(batch, 1, rows, cols)``.
            targets: Condition vectors of the slices, shape ``(batch, width)``. A block of zeros is
                an unknown value and adds nothing.
            class_weights: Weight of each category, per categorical attribute; without it all are 1.

        Returns:
            Loss, float32, a scalar.
        """
        weights = class_weights or {}
        outputs = self.outputs(images)
        total = sum((output.sum() for output in outputs.values()), start=images.new_zeros(())) * 0.0
        for name, block in self.spec.blocks.items():
            target = targets[:, block]
            known = target.abs().sum(dim=1) > 0
            if not bool(known.any()):
                continue
            output, target = outputs[name][known], target[known]
            if name in self.spec.categories:
                total = total + F.cross_entropy(output, target.argmax(dim=1), weights.get(name))
            else:
                total = total + F.mse_loss(output[:, 0], target[:, 1])
        return total

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int = 64) -> dict[str, dict[str, Any]]:
        """Predict the parameters of one volume from some of its slices.

        Args:
            images: Slices in normalised intensity, float32, shape ``(slices, 1, rows, cols)``.
            batch_size: Slices per pass.

        Returns:
            Per attribute ``{"value": v, "probabilities": {category: p} | None}``. Probabilities and
            values are means over the slices; continuous values are in the attribute's unit.
        """
        self.network.eval()
        passes = [self.outputs(batch.to(self.device)) for batch in torch.split(images, batch_size)]
        outputs = {name: torch.cat([one[name] for one in passes]) for name in ATTRIBUTES}
        return {name: self._summary(name, output) for name, output in outputs.items()}

    def _summary(self, name: str, output: Tensor) -> dict[str, Any]:
        if name in self.spec.ranges:
            return {"value": self.spec.from_unit(name, float(output.mean())), "probabilities": None}
        mean = output.softmax(dim=1).mean(dim=0).tolist()
        categories = self.spec.categories[name]
        best = max(range(len(mean)), key=mean.__getitem__)
        probabilities = {str(category): share for category, share in zip(categories, mean, strict=True)}
        return {"value": categories[best], "probabilities": probabilities}


def inverse_class_frequency(spec: ConditionSpec, targets: Tensor) -> dict[str, Tensor]:
    """Return weights that make every category count the same in `IapPredictor.loss`.

    Args:
        spec: Attributes and categories.
        targets: Condition vectors, one per *study* (not per slice: a study with many slices would
            count more), shape ``(studies, width)``.

    Returns:
        Per categorical attribute: weights, float32, shape ``(n_categories,)``, mean 1 over the
        studies; 0 for a category that does not occur.
    """
    weights = {}
    for name in spec.categories:
        counts = targets[:, spec.blocks[name]].sum(dim=0)
        present = counts > 0
        inverse = torch.where(present, counts.sum() / counts.clamp(min=1.0), torch.zeros_like(counts))
        weights[name] = inverse / present.sum().clamp(min=1)
    return weights


def _head_widths(spec: ConditionSpec) -> list[int]:
    return [len(spec.categories[name]) if name in spec.categories else 1 for name in ATTRIBUTES]


def _build(config: IapPredictorConfig, spec: ConditionSpec) -> nn.Module:
    network: nn.Module = ResNet(
        "basic",
        [2, 2, 2, 2],
        list(config.widths),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_stride=2,
        num_classes=sum(_head_widths(spec)),
    )
    return network
