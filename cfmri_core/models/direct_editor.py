"""The direct editor: one network evaluation from a slice to its counterfactual, learned from pairs.

Where the diffusion editor learns from scans as a hospital has them, each acquired once, this one
needs the same anatomy under two acquisitions. Such pairs come from the simulator, so what it knows
about a scanner is what the simulator assumes about it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor

from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.model_folder import checked_config, load_weights, read_model, write_model
from cfmri_core.models.precision import autocast
from cfmri_core.models.unet import ConditionalUNet, UNetSize, with_tuples

#: Neighbouring slices that the network sees at once, the edited one in the middle.
SLICES_SEEN = 3
#: Standard deviation in pixels of the blur whose remainder is shown to the network as detail, and the factor on it.
#: Noise is a few hundredths of the intensity range; without this the network did not learn to see it.
DETAIL_SIGMA_PIXELS, DETAIL_GAIN = 1.0, 8.0

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


class DirectEditor:
    """A network from slices, factual and requested parameters to the noise-free source and the change.

    Attributes:
        network: The U-Net, float32.
        spec: Meaning of a condition vector; the network takes two, factual before requested.
        size: Size of the network.
        sha256: Checksum of the weights file this was loaded from, empty for a new editor.
    """

    def __init__(self, network: ConditionalUNet, spec: ConditionSpec, size: UNetSize, sha256: str = "") -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.size = size
        self.sha256 = sha256

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained editor: it changes nothing.

        Raises:
            RequestError: There is no such preset.
        """
        if preset not in PRESETS:
            raise RequestError(f"There is no direct editor preset '{preset}'.", f"Use one of: {', '.join(PRESETS)}.")
        return cls(_network(PRESETS[preset], spec), spec, PRESETS[preset])

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read a direct editor from its model folder, ready to predict.

        Raises:
            CheckpointError: The folder is not a whole, undamaged direct editor.
        """
        values, state, sha256 = read_model(folder, "direct_editor")
        with checked_config(folder):
            spec, size = ConditionSpec.from_json(values["spec"]), UNetSize(**with_tuples(values["size"]))
            network = _network(size, spec)
        load_weights(network, state, folder)
        return cls(network.to(device).eval().requires_grad_(False), spec, size, sha256)

    def save(self, folder: Path, card: str, half: bool = True) -> None:
        """Write the editor as a model folder."""
        values = {"spec": self.spec.to_json(), "size": dataclasses.asdict(self.size)}
        write_model(folder, "direct_editor", self.network, values, card, half)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.size.preset

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""
        return self.size.image_size

    @property
    def reach(self) -> int:
        """How many slices on either side of a slice matter to its edit."""
        return SLICES_SEEN // 2

    @property
    def keeps_aspect(self) -> bool:
        """Whether slices are padded to the square; always."""
        return True

    def noise_and_change(self, images: Tensor, factual: Tensor, requested: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the noise of slices and what the requested acquisition changes, with gradients if enabled.

        Args:
            images: Normalised slices with their neighbours, float32, shape
                ``(batch, SLICES_SEEN, size, size)``, see `with_neighbours`.
            factual: Condition vectors of the source, shape ``(1, width)`` or ``(batch, width)``.
            requested: Condition vectors to imitate, same shapes.

        Returns:
            Noise of the middle slice and change to its noise-free image, both float32 in normalised
            intensity, shape ``(batch, 1, size, size)``.
        """
        batch = images.shape[0]
        condition = torch.cat([vector.to(images).expand(batch, -1) for vector in (factual, requested)], dim=1)
        shown = torch.cat([images, DETAIL_GAIN * (images - _blurred(images))], dim=1)
        with autocast(images.device):
            output: Tensor = self.network(shown, torch.zeros(batch, device=images.device), condition)
        noise, gain, offset = output.float().tensor_split(3, dim=1)
        noise = noise / DETAIL_GAIN
        clean = images[:, SLICES_SEEN // 2, None] - noise
        return noise, gain * clean + offset


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


def _network(size: UNetSize, spec: ConditionSpec) -> ConditionalUNet:
    """From slices and their detail to noise, and gain and offset of the change: most of a change scales a tissue."""
    return ConditionalUNet(size, 2 * spec.width, in_images=2 * SLICES_SEEN, out_images=3)


def _blurred(images: Tensor) -> Tensor:
    """Blur in plane by a Gaussian of `DETAIL_SIGMA_PIXELS`, the border repeated."""
    reach = math.ceil(3 * DETAIL_SIGMA_PIXELS)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0, device=images.device) / DETAIL_SIGMA_PIXELS) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    along_columns = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(along_columns, kernel.transpose(2, 3), groups=images.shape[1])
