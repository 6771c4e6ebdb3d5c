"""The counterfactual editor: a noise predictor conditioned on acquisition parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.model_folder import checked_config, load_weights, read_model, write_model
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.precision import autocast


@dataclass(frozen=True)
class EditorConfig:
    """Size and parametrisation of an editor.

    Attributes:
        preset: Name of the preset this started from.
        image_size: Rows and columns of a slice, in pixels.
        channels: Channels per resolution level.
        attention: Whether each level attends.
        head_channels: Channels per attention head.
        norm_groups: Groups of the group normalisation.
        res_blocks: Residual blocks per level.
        patch_size: Pixels are folded into channels by this factor before the first convolution.
            Half the computation of a small U-Net is spent at full resolution; folding by 2 saves
            most of it (measured: 3 times the training speed at 96 x 96).
        prediction: What the network returns: the noise, or v of Salimans and Ho 2022.
        normalisation: Intensity scale inside the network.
    """

    preset: str
    image_size: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    head_channels: int
    norm_groups: int
    res_blocks: int
    patch_size: int
    prediction: str
    normalisation: Normalisation

    def __post_init__(self) -> None:
        if self.prediction not in ("v", "eps"):
            raise ValueError(f"prediction is '{self.prediction}', not 'v' or 'eps'.")
        multiple = self.patch_size * 2 ** (len(self.channels) - 1)
        if self.image_size % multiple:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {multiple}.")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EditorConfig:
        """Build from what `to_json` returned."""
        changed = {
            "channels": tuple(values["channels"]),
            "attention": tuple(values["attention"]),
            "normalisation": Normalisation.from_json(values["normalisation"]),
        }
        return cls(**{**values, **changed})


PRESETS: Mapping[str, EditorConfig] = {
    "paper": EditorConfig(
        preset="paper",
        image_size=224,
        channels=(64, 64, 128, 128, 256, 256),
        attention=(False, False, True, False, True, False),
        head_channels=8,
        norm_groups=32,
        res_blocks=2,
        patch_size=1,
        prediction="eps",
        normalisation=Normalisation(low_value=0.0, high_value=1.0),
    ),
    "tiny": EditorConfig(
        preset="tiny",
        image_size=96,
        channels=(48, 64, 96),
        attention=(False, False, True),
        head_channels=32,
        norm_groups=16,
        res_blocks=1,
        patch_size=2,
        prediction="v",
        normalisation=Normalisation(low_value=-1.0, high_value=1.0),
    ),
}


class ConditionalUNet(nn.Module):
    """MONAI's diffusion U-Net with the paper's hybrid conditioning.

    The condition vector is added to the time embedding through a linear layer without bias, and
    attended to as one token. Without bias the zero vector embeds to zero: the unconditional case.
    """

    def __init__(self, config: EditorConfig, condition_width: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=config.patch_size**2,
            out_channels=config.patch_size**2,
            channels=config.channels,
            num_res_blocks=config.res_blocks,
            attention_levels=config.attention,
            norm_num_groups=config.norm_groups,
            num_head_channels=config.head_channels,
            with_conditioning=True,
            cross_attention_dim=condition_width,
            num_class_embeds=condition_width,
            include_fc=True,
            use_combined_linear=False,
            use_flash_attention=True,
        )
        embedding_width = 4 * config.channels[0]
        self.unet.class_embedding = nn.Sequential(nn.Linear(condition_width, embedding_width, bias=False), nn.SiLU())

    def forward(self, x_t: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return the network's output, shape ``(batch, 1, rows, cols)``.

        Args:
            x_t: Noisy slices, shape ``(batch, 1, rows, cols)``.
            timesteps: Network timesteps, 0 to 999, shape ``(batch,)``.
            condition: Condition vectors, shape ``(batch, width)``.
        """
        folded = F.pixel_unshuffle(x_t, self.patch_size).contiguous(memory_format=torch.channels_last)
        output = self.unet(folded, timesteps, context=condition[:, None], class_labels=condition)
        return F.pixel_shuffle(output, self.patch_size)


class Editor:
    """A conditional noise predictor with all that is needed to use it.

    Attributes:
        network: The U-Net, float32.
        spec: Meaning of the condition vector.
        config: Size and parametrisation.
        sha256: Checksum of the weights file this was loaded from, empty for a new editor.
    """

    def __init__(self, network: ConditionalUNet, spec: ConditionSpec, config: EditorConfig, sha256: str = "") -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config
        self.sha256 = sha256

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained editor.

        Raises:
            RequestError: There is no such preset.
        """
        if preset not in PRESETS:
            raise RequestError(f"There is no editor preset '{preset}'.", f"Use one of: {', '.join(PRESETS)}.")
        return cls(ConditionalUNet(PRESETS[preset], spec.width), spec, PRESETS[preset])

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """Read an editor from its model folder, ready to predict.

        Raises:
            CheckpointError: The folder is not a whole, undamaged editor.
        """
        values, state, sha256 = read_model(folder, "editor")
        with checked_config(folder):
            spec, config = ConditionSpec.from_json(values["spec"]), EditorConfig.from_json(values["editor"])
            network = ConditionalUNet(config, spec.width)
        load_weights(network, state, folder)
        return cls(network.to(device).eval().requires_grad_(False), spec, config, sha256)

    def save(self, folder: Path, card: str, half: bool = True) -> None:
        """Write the editor as a model folder."""
        values = {"spec": self.spec.to_json(), "editor": self.config.to_json()}
        write_model(folder, "editor", self.network, values, card, half)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = next(self.network.parameters()).device
        return device

    @functools.cached_property
    def alpha_bar(self) -> Tensor:
        """Cumulative signal level per schedule index, float32, shape ``(1001,)``."""
        return cosine_alpha_bar()

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return self.config.preset

    @property
    def image_size(self) -> int:
        """Rows and columns of a slice, in pixels."""
        return self.config.image_size

    @property
    def prediction(self) -> str:
        """What the network returns: 'v' or 'eps'."""
        return self.config.prediction

    @property
    def normalisation(self) -> Normalisation:
        """Intensity scale inside the network."""
        return self.config.normalisation

    def raw(self, x_t: Tensor, index: int | Tensor, condition: Tensor) -> Tensor:
        """Run the network and return its own output (v or noise), with gradients if enabled.

        Args:
            x_t: Noisy slices, float32, shape ``(batch, 1, rows, cols)``.
            index: Schedule index, 1 to 1000, one or one per slice, int64, shape ``(batch,)``.
            condition: Condition vectors, shape ``(1, width)`` or ``(batch, width)``.

        Returns:
            Output, float32, same shape as ``x_t``.
        """
        batch = x_t.shape[0]
        indices = torch.as_tensor(index, device=x_t.device).expand(batch)
        with autocast(x_t.device):
            output: Tensor = self.network(x_t, indices - 1, condition.to(x_t.device).expand(batch, -1))
        return output.float()

    def eps(self, x_t: Tensor, index: int | Tensor, condition: Tensor) -> Tensor:
        """Predict the noise in ``x_t``, whatever the network returns; arguments as `raw`.

        Source: Salimans and Ho 2022 (progressive distillation), appendix D: eps from v.
        """
        output = self.raw(x_t, index, condition)
        if self.prediction == "eps":
            return output
        alpha_bar = self.alpha_bar.to(x_t.device)[index].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
