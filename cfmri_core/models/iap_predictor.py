"""The predictor of image acquisition parameters (IAP) from slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from monai.networks.nets import ResNet
from torch import Tensor, nn

from cfmri_core.models.batches import Result, in_batches
from cfmri_core.models.calibration import Calibration
from cfmri_core.models.conditioning import ATTRIBUTES, CATEGORICAL, ConditionSpec
from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.orientation import check_axes, turned
from cfmri_core.models.texture_network import TextureNetwork, WithFineDetail


@dataclass(frozen=True)
class IapPredictorConfig:
    """Architecture and size of a predictor.

    Attributes:
        preset: Name of the preset.
        image_size: Rows and columns of a slice, in pixels.
        widths: Channels of the stages.
        architecture: ``resnet`` (ResNet-18, batch normalisation), ``detail-resnet`` (the same with fine detail as a
            further channel) or ``texture`` (`TextureNetwork`).
        input_slices: Neighbouring slices seen at once, odd; the middle one is judged.
        normalisation: Intensity scale inside the network.
        axes: Layout of the slices it was trained on, see `cfmri_core.models.orientation`.
        keeps_aspect: Whether those slices were padded to a square; if not, they were stretched.
    """

    preset: str
    image_size: int
    widths: tuple[int, ...]
    architecture: str = "resnet"
    input_slices: int = 1
    normalisation: Normalisation = field(default_factory=Normalisation)
    axes: str = "PL"
    keeps_aspect: bool = True

    def __post_init__(self) -> None:
        check_axes(self.axes)

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> IapPredictorConfig:
        """Build from what `to_json` returned."""
        normalisation = Normalisation.from_json(values.get("normalisation", {}))
        return cls(**{**values, "widths": tuple(values["widths"]), "normalisation": normalisation})


#: `scoring` judges edits in evaluations only. It shares neither architecture nor patients with the others, so that an
#: edit that deceives the one is not simply believed by the other.
PRESETS: Mapping[str, IapPredictorConfig] = {
    "paper": IapPredictorConfig("paper", 224, (64, 128, 256, 512)),
    "tiny": IapPredictorConfig("tiny", 128, (24, 32, 64, 128), "texture", input_slices=3),
    "scoring": IapPredictorConfig("scoring", 128, (16, 32, 64, 128), "detail-resnet", input_slices=3),
}


class IapPredictor(NetworkModel):
    """A network with one linear layer of seven heads: logits per category, one value per continuous attribute.

    Continuous values are in units of the attribute's half-range, as in `ConditionSpec`.

    Attributes:
        network: Maps slices to the concatenated heads, float32.
        spec: Attributes, their categories and ranges.
        config: Architecture and size.
        calibration: Fitted at the end of training; empty for a model that was written without.
        manufacturers: Manufacturer of each scanner model, as the training headers had it.
    """

    kind = "iap_predictor"
    config: IapPredictorConfig

    def __init__(self, network: nn.Module, spec: ConditionSpec, config: IapPredictorConfig) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config
        self.calibration = Calibration()
        self.manufacturers: Mapping[str, str] = {}

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained predictor.

        Raises:
            RequestError: There is no such preset.
        """
        return cls.of(preset_of(PRESETS, preset, "predictor"), spec)

    @classmethod
    def of(cls, config: IapPredictorConfig, spec: ConditionSpec) -> Self:
        """Return an untrained predictor of a given configuration."""
        return cls(_build(config, spec), spec, config)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained predictor that `description` describes."""
        config = IapPredictorConfig.from_json(values["iap_predictor"])
        predictor = cls.of(config, ConditionSpec.from_json(values["spec"]))
        if "calibration" in values:
            predictor.calibration = Calibration.from_json(values["calibration"])
        predictor.manufacturers = dict(values.get("manufacturers", {}))
        return predictor

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the predictor again and to read its answers, JSON-ready."""
        return {
            "spec": self.spec.to_json(),
            "iap_predictor": self.config.to_json(),
            "calibration": self.calibration.to_json(),
            "manufacturers": dict(self.manufacturers),
        }

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network, in float32 throughout.

        A step of bfloat16 is as large as what noise, point spread or a few hundredths of a millisecond
        of echo time do to an image; and an instrument should read the same on every processor.

        Args:
            images: Slices in normalised intensity with their neighbours (see `neighbours`), float32, shape
                ``(batch, input_slices, rows, cols)``.

        Returns:
            Per attribute: logits ``(batch, n_categories)``, or unit values ``(batch, 1)``; float32.
        """
        seen = turned(self.config.normalisation.to_network(images), self.config.axes)
        head: Tensor = self.network(seen.contiguous(memory_format=torch.channels_last))
        return dict(zip(ATTRIBUTES, torch.split(head.float(), _head_widths(self.spec), dim=1), strict=True))

    def loss(
        self,
        images: Tensor,
        targets: Tensor,
        class_weights: Mapping[str, Tensor] | None = None,
        error_weights: Mapping[str, float] | None = None,
    ) -> Tensor:
        """Return weighted cross-entropy plus weighted squared error, summed over the attributes.

        Args:
            images: As in `outputs`.
            targets: Condition vectors of the slices, shape ``(batch, width)``. A block of zeros is
                an unknown value and adds nothing.
            class_weights: Weight of each category, per categorical attribute; without it all are 1.
            error_weights: Weight of the squared error, per continuous attribute; without it all are 1.

        Returns:
            Loss, float32, a scalar.
        """
        weights, factors = class_weights or {}, error_weights or {}
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
                total = total + factors.get(name, 1.0) * F.mse_loss(output[:, 0], target[:, -1])
        return total

    def slice_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Run the network on the slices of one volume.

        Args:
            images: All slices of the volume in order, normalised intensity, float32, shape ``(slices, 1, rows, cols)``.

        Returns:
            As `outputs`, one row per slice, on the CPU.
        """
        passes = self.over_slices(self.outputs, images)
        return {name: torch.cat([one[name].cpu() for one in passes]) for name in ATTRIBUTES}

    @torch.no_grad()
    def over_slices(self, run: Callable[[Tensor], Result], images: Tensor) -> list[Result]:
        """Run something on the slices of one volume with their neighbours, batch by batch, see `in_batches`.

        Args:
            run: Called with slices as `outputs` is.
            images: As in `slice_outputs`.
        """
        self.network.eval()
        index = neighbours(torch.zeros(len(images), dtype=torch.long), self.config.input_slices)
        return in_batches(lambda batch: run(images[index[batch.rows], 0].to(self.device)), images)

    def predict(self, images: Tensor) -> dict[str, dict[str, Any]]:
        """Predict the parameters of one volume from its slices.

        Args:
            images: As in `slice_outputs`.

        Returns:
            See `summary`.
        """
        return self.summary(volume_outputs(self.slice_outputs(images)))

    def summary(self, outputs: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
        """Express the raw answers for one volume (or slice) in categories and units.

        Args:
            outputs: Per attribute: logits ``(n_categories,)``, or a unit value ``(1,)``.

        Returns:
            Per categorical attribute ``value`` and calibrated ``probabilities`` by category; per
            continuous one, in its unit, ``value``, ``standard_deviation`` and the 90 % ``interval``
            (both ``None`` without calibration) and ``probabilities`` ``None``. ``manufacturer``
            follows from the model's probabilities, where the training headers named it.
        """
        predicted = {name: self._summary(name, output) for name, output in outputs.items()}
        by_maker: dict[str, float] = {}
        for model, probability in predicted["manufacturer_model"]["probabilities"].items():
            if model in self.manufacturers:
                maker = self.manufacturers[model]
                by_maker[maker] = by_maker.get(maker, 0.0) + probability
        if by_maker:
            value = max(by_maker, key=by_maker.__getitem__)
            predicted["manufacturer"] = {"value": value, "probabilities": by_maker}
        return predicted

    def _summary(self, name: str, output: Tensor) -> dict[str, Any]:
        if name in self.spec.ranges:
            value = self.spec.from_unit(name, self.calibration.corrected(name, float(output)))
            deviation, interval = self.calibration.standard_deviations.get(name), self.calibration.interval(name, value)
            spread = {"standard_deviation": deviation, "interval": interval and list(interval)}
            return {"value": value, "probabilities": None, **spread}
        shares = self.calibration.probabilities(name, output).tolist()
        categories = self.spec.categories[name]
        best = max(range(len(shares)), key=shares.__getitem__)
        probabilities = {str(category): share for category, share in zip(categories, shares, strict=True)}
        return {"value": categories[best], "probabilities": probabilities}


def volume_outputs(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Combine the answers for the slices of a volume into one.

    Logits are averaged (the geometric mean of the probabilities: a slice that excludes a category
    counts); of continuous values the median is taken (a few odd slices do not move it).

    Args:
        outputs: Per attribute, one row per slice: logits ``(slices, n_categories)``, or unit values ``(slices, 1)``.

    Returns:
        Per attribute, without the first axis.
    """
    return {
        name: output.mean(dim=0) if name in CATEGORICAL else output.quantile(0.5, dim=0)
        for name, output in outputs.items()
    }


def neighbours(subject: Tensor, count: int) -> Tensor:
    """Return which slices lie around each slice of a stack of subjects.

    Args:
        subject: Subject of each slice, the slices of one subject together and in order, shape ``(slices,)``.
        count: How many, odd.

    Returns:
        Indices, int64, shape ``(slices, count)``, the slice itself in the middle; beyond the ends of
        a subject its last slice is repeated.
    """
    _, sizes = torch.unique_consecutive(subject, return_counts=True)
    first = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)[:, None]
    last = first + torch.repeat_interleave(sizes, sizes)[:, None] - 1
    offsets = torch.arange(count) - count // 2
    return torch.minimum(torch.maximum(torch.arange(len(subject))[:, None] + offsets, first), last)


def _head_widths(spec: ConditionSpec) -> list[int]:
    return [len(spec.categories[name]) if name in spec.categories else 1 for name in ATTRIBUTES]


def _build(config: IapPredictorConfig, spec: ConditionSpec) -> nn.Module:
    outputs = sum(_head_widths(spec))
    if config.architecture == "texture":
        return TextureNetwork(config.input_slices, config.widths, outputs)
    if config.architecture not in ("resnet", "detail-resnet"):
        raise ValueError(f"There is no architecture '{config.architecture}'.")
    sees_detail = config.architecture == "detail-resnet"
    network: nn.Module = ResNet(
        "basic",
        [2, 2, 2, 2],
        list(config.widths),
        spatial_dims=2,
        n_input_channels=config.input_slices + sees_detail,
        conv1_t_stride=2,
        num_classes=outputs,
    )
    return nn.Sequential(WithFineDetail(), network) if sees_detail else network
