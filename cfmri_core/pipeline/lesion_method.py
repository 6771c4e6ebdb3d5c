"""How a lesion edit is asked for: the methods, their settings, and the models that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cfmri_core.errors import RequestError
from cfmri_core.models.lesion_editor import LesionEditor, PaletteEditor
from cfmri_core.models.model_folder import locate_model

#: What can be done to a region.
MODES = ("insert", "remove")


@dataclass(frozen=True, kw_only=True)
class LesionMethod:
    """How a method runs unless told otherwise.

    Attributes:
        model: Kind of model it needs.
        steps: Denoising steps.
        depth: Schedule index that the region is taken to, of 1000.
        resamplings: How often a step in the middle of the schedule is taken.
        mask_guidance: How much an insertion follows the mask it is told: 1 follows it, more exaggerates it over what
            the network would draw without.
        box_guidance: The same for a box, which says less.
        dilation_mm: How far around the asked region the image may change.
        feather_mm: Over which depth inside the region the change sets in; 0 sets it in at once, as published.
        is_whole_patch: Whether all of the breast in the patch may change, and not the region alone.
    """

    model: str
    steps: int
    depth: int
    resamplings: int = 1
    mask_guidance: float = 1.3
    box_guidance: float = 1.6
    dilation_mm: float = 0.0
    feather_mm: float = 0.0
    is_whole_patch: bool = False


#: `mededit`: the dilated region and resampling (Ben Alaya et al. 2024). `repaint`: the same network without either.
#: `sdedit`: the whole patch is noised a little and denoised (Meng et al. 2022). `palette`: a network trained to
#: fill regions (Saharia et al. 2022). Guidance, alike for all, resamplings and the depth of `sdedit` were chosen on 6
#: simulated validation patients: with more, lesions are found more surely, and look too bright.
LESION_METHODS: Mapping[str, LesionMethod] = {
    "mededit": LesionMethod(model="lesion_editor", steps=25, depth=999, resamplings=3, dilation_mm=7.5, feather_mm=3.0),
    "repaint": LesionMethod(model="lesion_editor", steps=25, depth=999),
    "sdedit": LesionMethod(model="lesion_editor", steps=10, depth=400, feather_mm=3.0, is_whole_patch=True),
    "palette": LesionMethod(model="palette_editor", steps=25, depth=999),
}
DEFAULT_LESION_METHOD = "mededit"


@dataclass(frozen=True, kw_only=True)
class LesionRequest:
    """What to do to a region, and how.

    Attributes:
        mode: One of `MODES`.
        method: One of `LESION_METHODS`.
        steps: Denoising steps; ``None`` takes the method's own.
        seed: Seed of the noise; the same seed gives the same result.

    Raises:
        RequestError: A value is out of its range.
    """

    mode: str = MODES[0]
    method: str = DEFAULT_LESION_METHOD
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise RequestError(f"mode is '{self.mode}'.", f"Use one of: {', '.join(MODES)}.")
        method = lesion_method(self.method)
        if self.steps is not None and not 1 <= self.steps <= method.depth:
            raise RequestError(f"steps is {self.steps}.", f"Give a whole number from 1 to {method.depth}.")
        if self.seed < 0:
            raise RequestError(f"seed is {self.seed}.", "Give a whole number from 0.")

    @property
    def steps_used(self) -> int:
        """Denoising steps, the method's own unless told otherwise."""
        return lesion_method(self.method).steps if self.steps is None else self.steps


def lesion_method(name: str) -> LesionMethod:
    """Return a method by name.

    Raises:
        RequestError: There is none of that name.
    """
    if name not in LESION_METHODS:
        raise RequestError(f"'{name}' is not a method.", f"Use one of: {', '.join(LESION_METHODS)}.")
    return LESION_METHODS[name]


def load_lesion_editor(method: str, root: Path | None = None, device: str | torch.device = "cpu") -> LesionEditor:
    """Load the model that a method needs.

    Args:
        method: One of `LESION_METHODS`.
        root: See `locate_model`.
        device: Torch device.

    Raises:
        RequestError: There is no such method.
        CheckpointError: There is no such model.
    """
    kind = lesion_method(method).model
    editor = PaletteEditor if kind == PaletteEditor.kind else LesionEditor
    return editor.load(locate_model(kind, root), device)
