"""The direct editor: from a slice to its counterfactuals without a diffusion, learned from pairs.

The network reads pseudo maps off a slice (how much water, how much fat, relaxation, coil and fields) and the
signal equation shows them under any protocol, see `cfmri_core.models.signal_decoder`. So echo time, repetition
time, flip angle, field strength and slice thickness act as physics says, on and off the protocols that were
seen in training, and maps once read serve every target.

Where the diffusion editor learns from scans as a hospital has them, each acquired once, this one
needs the same anatomy under several acquisitions. Those come from the simulator, which knows the same
equation; what this editor knows about a scanner is what the simulator assumes about it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor, nn

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.precision import autocast
from cfmri_core.models.scanners import Scanners
from cfmri_core.models.sharpness import sharpened
from cfmri_core.models.signal_decoder import CHANNELS, Protocols, PseudoMaps, SignalDecoder
from cfmri_core.models.unet import ConditionalUNet, UNetSize, with_tuples

#: Neighbouring slices that the network sees at once, the edited one in the middle.
SLICES_SEEN = 3
#: Standard deviation in pixels of the blur whose remainder is shown to the network as detail, and the factor on it.
#: Noise is a few hundredths of the intensity range; without this the network did not learn to see it.
DETAIL_SIGMA_PIXELS, DETAIL_GAIN = 1.0, 8.0
#: Weights of neighbouring slices in the maps of coils and fields, see `PseudoMaps.steadied`.
STEADYING = (1 / 27, 3 / 27, 6 / 27, 7 / 27, 6 / 27, 3 / 27, 1 / 27)

PRESETS: Mapping[str, UNetSize] = {
    "tiny": UNetSize(
        preset="tiny",
        image_size=128,
        channels=(32, 64, 96, 96),
        attention=(False, False, False, True),
        head_channels=32,
        norm_groups=16,
        res_blocks=1,
        patch_size=2,
    ),
    "paper": UNetSize(
        preset="paper",
        image_size=224,
        channels=(64, 64, 128, 128, 256, 256),
        attention=(False, False, False, False, True, True),
        head_channels=32,
        norm_groups=32,
        res_blocks=2,
        patch_size=1,
    ),
}


class MapNetwork(nn.Module):
    """A U-Net that reads channels off slices, and the decoder that turns them into images.

    Args:
        size: Size of the U-Net.
        spec: Meaning of a condition vector.
    """

    def __init__(self, size: UNetSize, spec: ConditionSpec) -> None:
        super().__init__()
        self.unet = ConditionalUNet(size, spec.width, in_images=2 * SLICES_SEEN, out_images=CHANNELS)
        models, options = (len(spec.categories[name]) for name in ("manufacturer_model", "scan_options"))
        self.decoder = SignalDecoder(models, options, size.image_size)


class DirectEditor(NetworkModel):
    """A network from slices and how they were acquired to pseudo maps, and their image under any protocol.

    Attributes:
        network: U-Net and decoder, float32.
        spec: Meaning of a condition vector.
        config: Size of the network.
        scanners: What was fitted to the scanners of a site; empty in a new editor.
    """

    kind = "direct_editor"
    network: MapNetwork
    config: UNetSize

    def __init__(self, network: MapNetwork, spec: ConditionSpec, config: UNetSize) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config
        self.scanners = Scanners()

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a model from its folder, with what was fitted to the scanners of a site."""
        editor = super().load(folder, device)
        editor.scanners = Scanners.read(folder, editor.sha256)
        return editor

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained editor: it guesses that what is dim is fat.

        Raises:
            RequestError: There is no such preset.
        """
        config = preset_of(PRESETS, preset, "direct editor")
        return cls(MapNetwork(config, spec), spec, config)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained editor that `description` describes."""
        spec, config = ConditionSpec.from_json(values["spec"]), UNetSize(**with_tuples(values["size"]))
        return cls(MapNetwork(config, spec), spec, config)

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the editor again, JSON-ready."""
        return {"spec": self.spec.to_json(), "size": dataclasses.asdict(self.config)}

    @property
    def reach(self) -> int:
        """How many slices on either side of a slice matter to its edit."""
        return SLICES_SEEN // 2 + len(STEADYING) // 2

    @property
    def keeps_aspect(self) -> bool:
        """Whether slices are padded to the square; always."""
        return True

    def maps(self, images: Tensor, source: Sequence[AcquisitionParameters]) -> PseudoMaps:
        """Read pseudo maps off slices, with gradients if enabled.

        Args:
            images: Normalised slices with their neighbours, float32, shape
                ``(batch, SLICES_SEEN, size, size)``, see `with_neighbours`.
            source: How they were acquired; one for all or one per slice.
        """
        return self.maps_under(images, *self._encoded(source, len(images)))

    def maps_under(self, images: Tensor, condition: Tensor, source: Protocols) -> PseudoMaps:
        """As `maps`, of what is encoded already: condition vectors and protocols, one row per slice."""
        shown = torch.cat([images, DETAIL_GAIN * (images - _blurred(images))], dim=1)
        with autocast(images.device):
            channels: Tensor = self.network.unet(shown, torch.zeros(len(images), device=images.device), condition)
        middle = images[:, SLICES_SEEN // 2]
        maps: PseudoMaps = self.network.decoder.maps(channels.float(), middle, source)
        return maps

    def images(self, maps: PseudoMaps, parameters: Sequence[AcquisitionParameters]) -> Tensor:
        """Show pseudo maps under a protocol, all but its slice thickness: see `PseudoMaps.with_thickness`.

        Args:
            maps: Of some slices.
            parameters: One for all slices or one per slice.

        Returns:
            Noise-free slices in the normalised intensity of the source, shape ``(batch, 1, size, size)``.
        """
        _, protocols = self._encoded(parameters, len(maps.water))
        shown: Tensor = self.network.decoder(maps, protocols)
        return shown[:, None]

    def sharpened(self, images: Tensor, source: AcquisitionParameters) -> Tensor:
        """Give shown slices the sharpness that their maps lost to the noise of the scan they were read off.

        Args:
            images: As returned by `images`, on any device.
            source: How that scan was acquired.
        """
        _, protocols = self._encoded([source], 1)
        return sharpened(images, (protocols.models @ self.network.decoder.lost_sharpness)[0].to(images.device))

    def is_null(self, source: AcquisitionParameters, target: AcquisitionParameters) -> bool:
        """Whether scans under both are shown alike: the equation sees numbers beyond the trained ranges too."""
        first, second = (Protocols.of([one], self.spec) for one in (source, target))
        return first.is_same(second) and self.scanners.fat_change(source, target) == 0

    @property
    def identity(self) -> str:
        """Digest of all that decides its results: weights, and what was fitted to scanners."""
        return self.scanners.identity(self.sha256)

    def noise_ratio(self, source: AcquisitionParameters, target: AcquisitionParameters) -> float:
        """Noise under the target's protocol over that under the source's."""
        with torch.inference_mode():
            logarithm = self.network.decoder.log_noise(Protocols.of([source, target], self.spec).to(self.device))
        return float(torch.exp(logarithm[1] - logarithm[0]))

    def _encoded(self, parameters: Sequence[AcquisitionParameters], batch: int) -> tuple[Tensor, Protocols]:
        condition = self.spec.encode_all(parameters).to(self.device)
        protocols = Protocols.of(parameters, self.spec).to(self.device)
        if len(parameters) == 1:
            return condition.expand(batch, -1), protocols.expand(batch)
        return condition, protocols


def with_neighbours(images: Tensor) -> Tensor:
    """Put each slice of one volume between its neighbours; the first and the last are their own.

    Args:
        images: Slices in order, shape ``(slices, 1, size, size)``.

    Returns:
        Shape ``(slices, SLICES_SEEN, size, size)``.
    """
    number = torch.arange(len(images))
    reach = SLICES_SEEN // 2
    shifted = [images[(number + offset).clamp(0, len(images) - 1)] for offset in range(-reach, reach + 1)]
    return torch.cat(shifted, dim=1)


def _blurred(images: Tensor) -> Tensor:
    """Blur in plane by a Gaussian of `DETAIL_SIGMA_PIXELS`, the border repeated."""
    reach = math.ceil(3 * DETAIL_SIGMA_PIXELS)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0, device=images.device) / DETAIL_SIGMA_PIXELS) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    along_columns = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(along_columns, kernel.transpose(2, 3), groups=images.shape[1])
