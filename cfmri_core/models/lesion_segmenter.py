"""The lesion segmenter: a judge of edits, and what inserted lesions are to train. Not part of any edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.precision import autocast

#: Neighbouring slices that the network sees at once, the labelled one in the middle.
SLICES_SEEN = 3


@dataclass(frozen=True)
class LesionSegmenterConfig:
    """Size of a lesion segmenter.

    Attributes:
        preset: Name of the preset.
        image_size: Side of the training patches, in pixels; a multiple of 16.
        channels: Channels of the five levels, and of the last layer.
        pixel_mm: Side of a pixel.
        normalisation: Intensity scale inside the network.
    """

    preset: str
    image_size: int
    channels: tuple[int, int, int, int, int, int]
    pixel_mm: float
    normalisation: Normalisation = field(default_factory=lambda: Normalisation(low_value=-1.0, high_value=1.0))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LesionSegmenterConfig:
        """Build from what ``dataclasses.asdict`` returned."""
        normalisation = Normalisation.from_json(values["normalisation"])
        return cls(**{**values, "channels": tuple(values["channels"]), "normalisation": normalisation})


PRESETS: Mapping[str, LesionSegmenterConfig] = {
    "tiny": LesionSegmenterConfig("tiny", 64, (12, 12, 24, 32, 32, 12), 2.34375),
    "paper": LesionSegmenterConfig("paper", 128, (32, 32, 64, 128, 256, 32), 1.0),
}


class LesionSegmenter(NetworkModel):
    """A plain U-Net (another architecture than the editors') with one output: lesion or not.

    Attributes:
        network: The U-Net, float32.
        config: Size.
    """

    kind = "lesion_segmenter"
    network: BasicUNet
    config: LesionSegmenterConfig

    def __init__(self, network: nn.Module, config: LesionSegmenterConfig) -> None:
        self.network = network
        self.config = config

    @classmethod
    def of(cls, config: LesionSegmenterConfig) -> Self:
        """Return an untrained segmenter of a given size."""
        network = BasicUNet(spatial_dims=2, in_channels=SLICES_SEEN, out_channels=1, features=config.channels)
        return cls(network, config)

    @classmethod
    def create(cls, preset: str) -> Self:
        """Return an untrained segmenter.

        Raises:
            RequestError: There is no such preset.
        """
        return cls.of(preset_of(PRESETS, preset, "lesion segmenter"))

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained segmenter that `description` describes."""
        return cls.of(LesionSegmenterConfig.from_json(values["segmenter"]))

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the segmenter again, JSON-ready."""
        return {"segmenter": dataclasses.asdict(self.config)}

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of the middle slice, float32, shape ``(batch, 1, rows, cols)``.

        Args:
            images: Slices with their neighbours in normalised intensity, shape ``(batch, SLICES_SEEN, rows, cols)``,
                rows and columns multiples of 16.
        """
        with autocast(images.device):
            output: Tensor = self.network(self.config.normalisation.to_network(images))
        return output.float()
