"""The structure editor: a diffusion model that knows the fibroglandular share, and networks that change it.

They were fine-tuned from the diffusion model and need one evaluation.

The share of a slice is that of its breast: fibroglandular area over breast area. The editor holds two segmenters: one
at its working resolution, which finds the breast and led the fine-tuning, and a finer one, the reader, which measures
finished volumes. What only pleases the first, half-bright pixels along borders above all, the reader does not count.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.precision import autocast
from cfmri_core.models.segmenter import Segmenter, SegmenterConfig
from cfmri_core.models.unet import ConditionalUNet, UNetSize, with_tuples

#: The networks of an editor: the diffusion model; and those that began with its weights and were fine-tuned on
#: counterfactuals against a frozen segmenter (Seg-CFT) or a frozen regressor of the share (Reg-CFT).
#: Source: Xia et al., arXiv 2509.24913.
BASE, SEG_CFT, REG_CFT = "base", "seg-cft", "reg-cft"
DENOISERS = (BASE, SEG_CFT, REG_CFT)
#: Columns of the condition that follow those of the acquisition: whether the share is known, and its logarithm.
SHARE_COLUMNS = 2
#: Share that encodes as 0, the factor on it that encodes as 1, and the shares between which it is told apart.
MIDDLE_SHARE, UNIT_FACTOR, LEAST_SHARE, GREATEST_SHARE = 0.15, 2.0, 0.01, 0.8
#: How many times as far from the source a target is told as it is: one relative change is a small step to a network
#: that knows all shares; fine-tuning learns what a step of this size is to mean.
TARGET_GAIN = 5.0
#: Labels of the segmenter.
FAT, FIBROGLANDULAR = 1, 2
#: Probabilities are sharpened by this temperature before they are summed to areas: a sum of slightly raised
#: probabilities would otherwise pass for grown tissue.
AREA_TEMPERATURE = 0.5


@dataclass(frozen=True, kw_only=True)
class StructureEditorConfig(UNetSize):
    """Size of a structure editor.

    Attributes:
        normalisation: Intensity scale inside the denoisers.
    """

    normalisation: Normalisation

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StructureEditorConfig:
        """Build from JSON-ready values."""
        normalisation = Normalisation.from_json(values["normalisation"])
        return cls(**{**with_tuples(values), "normalisation": normalisation})


PRESETS: Mapping[str, StructureEditorConfig] = {
    "tiny": StructureEditorConfig(
        preset="tiny",
        image_size=96,
        channels=(24, 48, 72),
        attention=(False, False, False),
        head_channels=24,
        norm_groups=8,
        res_blocks=1,
        patch_size=2,
        normalisation=Normalisation(low_value=-1.0, high_value=1.0),
    ),
    "paper": StructureEditorConfig(
        preset="paper",
        image_size=224,
        channels=(64, 64, 128, 128, 256, 256),
        attention=(False, False, False, False, True, True),
        head_channels=32,
        norm_groups=32,
        res_blocks=2,
        patch_size=1,
        normalisation=Normalisation(low_value=-1.0, high_value=1.0),
    ),
}


class StructureNetwork(nn.Module):
    """The denoisers of an editor and its segmenters.

    Args:
        config: Size of the denoisers.
        condition_width: Columns of a condition vector.
        segmenter: The network of the segmenter at working resolution.
        reader: That of the reader.
    """

    def __init__(
        self, config: StructureEditorConfig, condition_width: int, segmenter: nn.Module, reader: nn.Module
    ) -> None:
        super().__init__()
        self.denoisers = nn.ModuleDict(
            {name: ConditionalUNet(config, condition_width, in_images=2) for name in DENOISERS}
        )
        self.segmenter = segmenter
        self.reader = reader


class StructureEditor(NetworkModel):
    """Denoisers of slices with a breast, and the segmenters that read breast and share off them.

    Attributes:
        network: Denoisers and segmenters, float32.
        spec: Meaning of the acquisition columns of a condition.
        config: Size of the denoisers.
        segmenter: Finds the breast in slices at working resolution; shares its weights with ``network``.
        reader: Measures shares in finished volumes; likewise.
    """

    kind = "structure_editor"
    network: StructureNetwork
    config: StructureEditorConfig

    def __init__(
        self,
        network: StructureNetwork,
        spec: ConditionSpec,
        config: StructureEditorConfig,
        segmenter: SegmenterConfig,
        reader: SegmenterConfig,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config
        self.segmenter = Segmenter(network.segmenter, segmenter)
        self.reader = Segmenter(network.reader, reader)

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec, segmenter: Segmenter, reader: Segmenter) -> Self:
        """Return an editor of untrained denoisers about two segmenters.

        Raises:
            RequestError: There is no such preset.
        """
        config = preset_of(PRESETS, preset, "structure editor")
        network = StructureNetwork(config, spec.width + SHARE_COLUMNS, segmenter.network, reader.network)
        return cls(network, spec, config, segmenter.config, reader.config)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained editor that `description` describes."""
        spec, config = ConditionSpec.from_json(values["spec"]), StructureEditorConfig.from_json(values["editor"])
        segmenter, reader = (SegmenterConfig.from_json(values[name]) for name in ("segmenter", "reader"))
        networks = (Segmenter.of(one).network for one in (segmenter, reader))
        return cls(StructureNetwork(config, spec.width + SHARE_COLUMNS, *networks), spec, config, segmenter, reader)

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the editor again, JSON-ready."""
        return {
            "spec": self.spec.to_json(),
            "editor": dataclasses.asdict(self.config),
            "segmenter": self.segmenter.config.to_json(),
            "reader": self.reader.config.to_json(),
        }

    @functools.cached_property
    def alpha_bar(self) -> Tensor:
        """Cumulative signal level per schedule index, float32, shape ``(1001,)``."""
        return cosine_alpha_bar()

    def denoiser(self, name: str) -> ConditionalUNet:
        """Return one of `DENOISERS`."""
        found = self.network.denoisers[name]
        assert isinstance(found, ConditionalUNet)  # noqa: S101 - tells the type checker, not the user
        return found

    def conditions(
        self, parameters: Sequence[AcquisitionParameters], shares: Tensor, ratio: Tensor | float = 1.0
    ) -> Tensor:
        """Encode acquisitions and shares.

        Args:
            parameters: One for all slices, or one per slice.
            shares: Share of each slice, shape ``(slices,)``.
            ratio: Wanted over present share, one or one per slice.

        Returns:
            Condition vectors, float32, shape ``(slices, width)``.
        """
        encoded = self.spec.encode_all(parameters).to(shares.device)
        return with_share(encoded.expand(len(shares), -1), shares, ratio)

    def probabilities(self, images: Tensor) -> Tensor:
        """Return sharpened probabilities of background, fat and fibroglandular tissue, with gradients if enabled.

        Args:
            images: Normalised slices, shape ``(batch, 1, size, size)``.

        Returns:
            Shape ``(batch, 3, size, size)``.
        """
        return sharpened(self.segmenter, images)

    def v(self, denoiser: nn.Module, x_t: Tensor, index: int | Tensor, condition: Tensor, breast: Tensor) -> Tensor:
        """Run a denoiser and return v, with gradients if enabled.

        Args:
            denoiser: One of the editor's, or a copy in training.
            x_t: Noisy slices on the network's scale, shape ``(batch, 1, size, size)``.
            index: Schedule index, 1 to 1000, one or one per slice.
            condition: Condition vectors, shape ``(batch, width)``.
            breast: How surely a pixel belongs to the breast, shape of ``x_t``.

        Source: Salimans and Ho 2022 (progressive distillation), section 4: v prediction.
        """
        indices = torch.as_tensor(index, device=x_t.device).expand(len(x_t))
        with autocast(x_t.device):
            output: Tensor = denoiser(torch.cat([x_t, breast], dim=1), indices - 1, condition)
        return output.float()

    def eps(self, denoiser: nn.Module, x_t: Tensor, index: int, condition: Tensor, breast: Tensor) -> Tensor:
        """Predict the noise in ``x_t``; arguments as `v`."""
        level = float(self.alpha_bar[index])
        v = self.v(denoiser, x_t, index, condition, breast)
        return math.sqrt(level) * v + math.sqrt(1 - level) * x_t


def sharpened(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Return any segmenter's sharpened probabilities; see `StructureEditor.probabilities`."""
    return torch.softmax(segmenter.logits(images) / AREA_TEMPERATURE, dim=1)


def with_share(conditions: Tensor, shares: Tensor, ratio: Tensor | float = 1.0) -> Tensor:
    """Append the columns of the share; encoded as a logarithm, one relative change is the same step everywhere.

    Args:
        conditions: Encoded acquisitions, shape ``(slices, width)``.
        shares: Share of each slice, shape ``(slices,)``.
        ratio: Wanted over present share, one or one per slice; its step is exaggerated by `TARGET_GAIN`.
    """
    steps = torch.as_tensor(ratio, dtype=shares.dtype, device=shares.device)
    told = torch.log(shares.clamp(LEAST_SHARE, GREATEST_SHARE) / MIDDLE_SHARE) + TARGET_GAIN * torch.log(steps)
    columns = [conditions, torch.ones_like(told)[:, None], told[:, None] / math.log(UNIT_FACTOR)]
    return torch.cat(columns, dim=1).float()


def areas(probabilities: Tensor, breast: Tensor) -> tuple[Tensor, Tensor]:
    """Return fibroglandular area inside a fixed breast, and the area of that breast, in pixels.

    Args:
        probabilities: See `StructureEditor.probabilities`.
        breast: Weight of each pixel, shape ``(batch, 1, size, size)``.

    Returns:
        Two tensors of shape ``(batch,)``.
    """
    return (probabilities[:, FIBROGLANDULAR, None] * breast).sum((1, 2, 3)), breast.sum((1, 2, 3))
