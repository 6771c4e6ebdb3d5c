"""Networks that insert and remove lesions: noise predictors of a patch, told where a lesion is to be.

Both see a square patch of fixed extent in millimetres. `LesionEditor` sees the noisy patch alone, so what is around
the lesion reaches it through the sampling (`cfmri_core.diffusion.inpainting`); `PaletteEditor` sees the clean patch
with the region filled by noise.

Sources: Ben Alaya et al. 2024 (MedEdit); Saharia et al. 2022 (Palette). Written from their descriptions.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.network_model import NetworkModel, preset_of
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.precision import autocast
from cfmri_core.models.unet import ConditionalUNet, UNetSize, with_tuples

#: Value of the lesion channel inside a mask; a box is less, see `box_value`.
MASK_VALUE = 1.0


def box_value(height: float) -> float:
    """Return the value of the lesion channel inside a box, in a slice at some height of it.

    A slice cannot tell whether it cuts the middle of a lesion or its end; the value says so: highest in the box's
    middle, so that a lesion comes out round and not as a cylinder.

    Args:
        height: Distance from the middle as a share of half the box's extent across slices, 0 to 1.
    """
    return 0.2 + 0.6 * (1 - min(1.0, abs(height)) ** 2)


@dataclass(frozen=True, kw_only=True)
class LesionEditorConfig(UNetSize):
    """Size of a lesion editor.

    Attributes:
        pixel_mm: Side of a pixel of the patch; ``image_size`` pixels make the patch.
        normalisation: Intensity scale inside the network.
    """

    pixel_mm: float
    normalisation: Normalisation

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pixel_mm > 0:
            raise ValueError(f"pixel_mm is {self.pixel_mm}.")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LesionEditorConfig:
        """Build from what `to_json` returned."""
        normalisation = Normalisation.from_json(values["normalisation"])
        return cls(**{**with_tuples(values), "normalisation": normalisation})


PRESETS: Mapping[str, LesionEditorConfig] = {
    "tiny": LesionEditorConfig(
        preset="tiny",
        image_size=48,
        channels=(32, 48, 80),
        attention=(False, False, False),
        head_channels=16,
        norm_groups=16,
        res_blocks=1,
        patch_size=2,
        pixel_mm=2.34375,
        normalisation=Normalisation(low_value=-1.0, high_value=1.0),
    ),
    "paper": LesionEditorConfig(
        preset="paper",
        image_size=128,
        channels=(128, 256, 256),
        attention=(False, True, True),
        head_channels=256,
        norm_groups=32,
        res_blocks=1,
        patch_size=1,
        pixel_mm=1.0,
        normalisation=Normalisation(low_value=-1.0, high_value=1.0),
    ),
}


class LesionEditor(NetworkModel):
    """A noise predictor of patches that is told the lesion, the breast and the acquisition.

    Attributes:
        network: The U-Net, float32.
        spec: Meaning of the condition vector.
        config: Size.
        context_images: Images that go beside the noisy patch: lesion channel, breast mask.
    """

    kind = "lesion_editor"
    context_images: ClassVar[int] = 2
    network: ConditionalUNet
    config: LesionEditorConfig

    def __init__(self, network: ConditionalUNet, spec: ConditionSpec, config: LesionEditorConfig) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = spec
        self.config = config

    @classmethod
    def of(cls, config: LesionEditorConfig, spec: ConditionSpec) -> Self:
        """Return an untrained editor of a given size."""
        return cls(ConditionalUNet(config, spec.width, in_images=1 + cls.context_images), spec, config)

    @classmethod
    def create(cls, preset: str, spec: ConditionSpec) -> Self:
        """Return an untrained editor.

        Raises:
            RequestError: There is no such preset.
        """
        return cls.of(preset_of(PRESETS, preset, cls.kind.replace("_", " ")), spec)

    @classmethod
    def described(cls, values: Mapping[str, Any]) -> Self:
        """Build the untrained editor that `description` describes."""
        return cls.of(LesionEditorConfig.from_json(values["editor"]), ConditionSpec.from_json(values["spec"]))

    def description(self) -> dict[str, Any]:
        """Return all that is needed to build the editor again, JSON-ready."""
        return {"spec": self.spec.to_json(), "editor": self.config.to_json()}

    @functools.cached_property
    def alpha_bar(self) -> Tensor:
        """Cumulative signal level per schedule index, float32, shape ``(1001,)``."""
        return cosine_alpha_bar()

    def raw(self, x_t: Tensor, index: int | Tensor, condition: Tensor, context: Tensor) -> Tensor:
        """Run the network and return v of Salimans and Ho 2022, with gradients if enabled.

        Args:
            x_t: Noisy patches, float32, shape ``(batch, 1, size, size)``.
            index: Schedule index, 1 to 1000, one or one per patch.
            condition: Condition vectors, shape ``(1, width)`` or ``(batch, width)``.
            context: What the patch is told beside, shape ``(batch, context_images, size, size)``.

        Returns:
            v, float32, same shape as ``x_t``.
        """
        indices = torch.as_tensor(index, device=x_t.device).expand(len(x_t))
        conditions = condition.to(x_t.device).expand(len(x_t), -1)
        with autocast(x_t.device):
            output: Tensor = self.network(torch.cat([x_t, context], dim=1), indices - 1, conditions)
        return output.float()

    def eps(self, x_t: Tensor, index: int, condition: Tensor, context: Tensor) -> Tensor:
        """Predict the noise in ``x_t``; arguments as `raw`.

        Source: Salimans and Ho 2022 (progressive distillation), appendix D: eps from v.
        """
        level = float(self.alpha_bar[index])
        return math.sqrt(level) * self.raw(x_t, index, condition, context) + math.sqrt(1 - level) * x_t


class PaletteEditor(LesionEditor):
    """A noise predictor of a region, which sees the clean patch around it.

    Attributes:
        context_images: Lesion channel, breast mask, the patch with the region filled by noise, the region.
    """

    kind = "palette_editor"
    context_images: ClassVar[int] = 4
