"""The tissue segmenter: background, fat and fibroglandular tissue in a slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.orientation import check_axes, turned
from cfmri_core.models.precision import autocast

#: Names of the classes, by label value.
LABELS = ("background", "fat", "fibroglandular tissue")
#: The paper's U-Net of residual units; and a deep residual encoder with a light decoder (Myronenko, BrainLes 2018).
RESIDUAL_UNET, RESIDUAL_ENCODER = "residual-unet", "residual-encoder"
ARCHITECTURES = (RESIDUAL_UNET, RESIDUAL_ENCODER)


@dataclass(frozen=True)
class SegmenterConfig:
    """Size of a segmenter.

    Attributes:
        preset: Name of the preset.
        image_size: Rows and columns of a slice, in pixels.
        channels: Channels per level.
        norm: MONAI name of the normalisation. The paper uses batch normalisation; the small net
            uses instance normalisation, which does not depend on how many slices a batch has.
        normalisation: Intensity scale inside the network.
        axes: Layout of the slices it was trained on, see `cfmri_core.models.orientation`.
        keeps_aspect: Whether those slices were padded to a square; if not, they were stretched.
        architecture: One of `ARCHITECTURES`.
    """

    preset: str
    image_size: int
    channels: tuple[int, ...]
    norm: str
    normalisation: Normalisation = field(default_factory=Normalisation)
    axes: str = "PL"
    keeps_aspect: bool = True
    architecture: str = RESIDUAL_UNET

    def __post_init__(self) -> None:
        check_axes(self.axes)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is '{self.architecture}', not one of {ARCHITECTURES}.")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SegmenterConfig:
        """Build from what `to_json` returned."""
        normalisation = Normalisation.from_json(values.get("normalisation", {}))
        return cls(**{**values, "channels": tuple(values["channels"]), "normalisation": normalisation})


#: The last two see more of a border than `tiny`, and are of another architecture, so that an edit that pleases the
#: segmenter it was tuned against does not please them for the same reason. `fine` measures shares for the structure
#: editor; `scoring` judges edits in evaluations only, and learns from other patients.
PRESETS: Mapping[str, SegmenterConfig] = {
    "paper": SegmenterConfig("paper", 224, (32, 64, 128, 256, 512, 512), "BATCH"),
    "tiny": SegmenterConfig("tiny", 96, (16, 32, 64, 128), "INSTANCE"),
    "fine": SegmenterConfig("fine", 128, (12, 24, 48, 96), "GROUP", architecture=RESIDUAL_ENCODER),
    "scoring": SegmenterConfig("scoring", 128, (12, 24, 48, 96), "GROUP", architecture=RESIDUAL_ENCODER),
}


class Segmenter(NetworkModel):
    """A residual U-Net with three classes.

    Attributes:
        network: The U-Net, float32.
        config: Size.
    """

    kind = "segmenter"
    config: SegmenterConfig

    def __init__(self, network: nn.Module, config: SegmenterConfig) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config = config

    @classmethod
    def create(cls, preset: str) -> Self:
        """Return an untrained segmenter.

        Raises:
            RequestError: There is no such preset.
        """
        return cls.of(preset_of(PRESETS, preset, "segmenter"))

    @classmethod
    def of(cls, config: SegmenterConfig) -> Self:
        """Return an untrained segmenter of a given configuration."""
        return cls(_build(config), config)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained segmenter that `description` describes."""
        return cls.of(SegmenterConfig.from_json(values["segmenter"]))

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the segmenter again, JSON-ready."""
        return {"segmenter": self.config.to_json()}

    def logits(self, images: Tensor) -> Tensor:
        """Return class logits, float32, shape ``(batch, 3, rows, cols)``.

        Args:
            images: Slices in normalised intensity, float32, shape ``(batch, 1, rows, cols)``; rows and
                columns are multiples of 2 to the number of levels less one.
        """
        seen = turned(self.config.normalisation.to_network(images), self.config.axes)
        with autocast(images.device):
            output: Tensor = self.network(seen.contiguous(memory_format=torch.channels_last))
        return turned(output.float(), self.config.axes)


def _build(config: SegmenterConfig) -> nn.Module:
    if config.architecture == RESIDUAL_ENCODER:
        encoder: nn.Module = SegResNet(
            spatial_dims=2,
            init_filters=config.channels[0],
            in_channels=1,
            out_channels=len(LABELS),
            norm=(config.norm, {"num_groups": 4}),
            blocks_down=(1, 2, 2, 2),
            blocks_up=(1, 1, 1),
        )
        return encoder
    norm = ("INSTANCE", {"affine": True}) if config.norm == "INSTANCE" else config.norm
    network: nn.Module = UNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=len(LABELS),
        channels=config.channels,
        strides=(2,) * (len(config.channels) - 1),
        num_res_units=2,
        norm=norm,
    )
    return network
