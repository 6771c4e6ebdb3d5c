"""The counterfactual editor: a noise predictor conditioned on acquisition parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.orientation import check_axes, turned
from cfmri_core.models.precision import autocast
from cfmri_core.models.unet import ConditionalUNet, UNetSize, with_tuples


@dataclass(frozen=True, kw_only=True)
class EditorConfig(UNetSize):
    """Size and parametrisation of an editor.

    Attributes:
        prediction: What the network returns: the noise, or v of Salimans and Ho 2022.
        normalisation: Intensity scale inside the network.
        axes: Layout of the slices it was trained on, see `cfmri_core.models.orientation`.
        keeps_aspect: Whether those slices were padded to a square; if not, they were stretched.
    """

    prediction: str
    normalisation: Normalisation
    axes: str = "PL"
    keeps_aspect: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prediction not in ("v", "eps"):
            raise ValueError(f"prediction is '{self.prediction}', not 'v' or 'eps'.")
        check_axes(self.axes)

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EditorConfig:
        """Build from what `to_json` returned."""
        normalisation = Normalisation.from_json(values["normalisation"])
        return cls(**{**with_tuples(values), "normalisation": normalisation})


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


class Editor(NetworkModel):
    """A conditional noise predictor with all that is needed to use it.

    Attributes:
        network: The U-Net, float32.
        spec: Meaning of the condition vector.
        config: Size and parametrisation.
    """

    kind = "editor"
    config: EditorConfig

    def __init__(self, network: ConditionalUNet, spec: ConditionSpec, config: EditorConfig) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained editor.

        Raises:
            RequestError: There is no such preset.
        """
        config = preset_of(PRESETS, preset, "editor")
        return cls(ConditionalUNet(config, spec.width), spec, config)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained editor that `description` describes."""
        spec, config = ConditionSpec.from_json(values["spec"]), EditorConfig.from_json(values["editor"])
        return cls(ConditionalUNet(config, spec.width), spec, config)

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the editor again, JSON-ready."""
        return {"spec": self.spec.to_json(), "editor": self.config.to_json()}

    @functools.cached_property
    def alpha_bar(self) -> Tensor:
        """Cumulative signal level per schedule index, float32, shape ``(1001,)``."""
        return cosine_alpha_bar()

    @property
    def reach(self) -> int:
        """How many slices on either side of a slice matter to its edit; slices are edited alone."""
        return 0

    @property
    def keeps_aspect(self) -> bool:
        """Whether slices are padded to the square, or stretched over it."""
        return self.config.keeps_aspect

    def is_null(self, source: AcquisitionParameters, target: AcquisitionParameters) -> bool:
        """Whether both are the same to the network, which takes no value for more than a little beyond its range."""
        return torch.equal(self.spec.encode(source), self.spec.encode(target))

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
            seen, conditions = turned(x_t, self.config.axes), condition.to(x_t.device).expand(batch, -1)
            output: Tensor = self.network(seen, indices - 1, conditions)
        return turned(output.float(), self.config.axes)

    def eps(self, x_t: Tensor, index: int | Tensor, condition: Tensor) -> Tensor:
        """Predict the noise in ``x_t``, whatever the network returns; arguments as `raw`.

        Source: Salimans and Ho 2022 (progressive distillation), appendix D: eps from v.
        """
        output = self.raw(x_t, index, condition)
        if self.prediction == "eps":
            return output
        alpha_bar = self.alpha_bar.to(x_t.device)[index].reshape(-1, 1, 1, 1)
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
