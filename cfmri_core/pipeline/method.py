"""How an edit is asked for: the methods, their settings, and the models that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.models.model_folder import locate_model


@dataclass(frozen=True)
class Method:
    """How an editing method runs unless told otherwise.

    Attributes:
        model: Kind of model it needs.
        steps: Denoising steps; 1 for a method without.
        guidance_scale: 1 follows the target condition, more exaggerates it.
        depth: Schedule index that the source is taken to, of 1000; 0 for a method without.
        evaluations_per_step: Network evaluations per slice and step.
        source_noise: What it can do with the source's noise, see `SOURCE_NOISE`; the first is its own.
    """

    model: str
    steps: int
    guidance_scale: float
    depth: int
    evaluations_per_step: int
    source_noise: tuple[str, ...] = ("keep",)


#: `fast`: the direct editor, which was trained on simulated pairs, sees each slice and its mirror image once.
#: `inversion`: edit-friendly DDPM inversion (Huberman-Spiegelglas et al., CVPR 2024) with the source condition as the
#: base of guidance; steps, guidance and depth chosen on 8 simulated validation patients among settings of at most 40
#: evaluations (guidance 1 comes nearer to the truth by 0.4 dB but makes only half of the change). `paper`: Algorithm 1
#: of Morão et al. as they run it.
METHODS: Mapping[str, Method] = {
    "fast": Method(
        "direct_editor",
        steps=1,
        guidance_scale=1.0,
        depth=0,
        evaluations_per_step=2,
        source_noise=("scale", "keep", "renew", "remove"),
    ),
    "inversion": Method("editor", steps=13, guidance_scale=1.25, depth=999, evaluations_per_step=2),
    "paper": Method("editor", steps=50, guidance_scale=3.0, depth=50, evaluations_per_step=2),
}
DEFAULT_METHOD, WITHOUT_PAIRS = "fast", "inversion"
#: What can be done with the source's noise: bring it to the level that the requested protocol has; keep it (what is
#: finer than the network sees then follows the contrast around it, like all fine detail); put noise of the requested
#: level in its place, and give back the sharpness that noise cost the maps, as another scan would look; or remove it.
#: The last two show only what the maps explain, and of what is finer than the network sees only what stands out of the
#: noise.
SOURCE_NOISE = METHODS["fast"].source_noise
AnyEditor = Editor | DirectEditor


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """What to change, and how.

    Attributes:
        changes: New values by parameter name.
        method: One of `METHODS`.
        guidance_scale: From 0 to 10; ``None`` takes the method's own.
        steps: From 1 to 1000; ``None`` takes the method's own. `paper` has one step per noise level.
        seed: Seed of the noise; the same seed gives the same result.
        source_noise: One of `SOURCE_NOISE` that the method can do; ``None`` takes the method's own.
        slices: First and one past the last slice along the slice axis; ``None`` edits all.

    Raises:
        RequestError: A value is out of its range.
    """

    changes: Mapping[str, str | float] = field(default_factory=dict)
    method: str = DEFAULT_METHOD
    guidance_scale: float | None = None
    steps: int | None = None
    seed: int = 0
    source_noise: str | None = None
    slices: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"'{self.method}' is not a method.", f"Use one of: {', '.join(METHODS)}.")
        possible = METHODS[self.method].source_noise
        if self.noise_used not in possible:
            raise RequestError(
                f"Method {self.method} cannot {self.source_noise} noise.", f"It can: {', '.join(possible)}."
            )
        if self.seed < 0:
            raise RequestError(f"seed is {self.seed}.", "Give a whole number from 0.")
        if METHODS[self.method].depth == 0:
            self._require_no_diffusion_settings()
            return
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 10:
            raise RequestError(f"guidance_scale is {self.guidance_scale}.", "Give a value from 0 to 10.")
        highest = METHODS[self.method].depth
        if self.steps is not None and not 1 <= self.steps <= highest:
            raise RequestError(f"steps is {self.steps}.", f"Give a whole number from 1 to {highest}.")

    @property
    def keeps_unexplained(self) -> bool:
        """Whether what the editor does not explain, noise above all, stays: an edit to the same is then the source.

        `paper` moves every image towards what its network expects.
        """
        return self.method != "paper" and self.noise_used in ("keep", "scale")

    @property
    def noise_used(self) -> str:
        """What is done with the source's noise, the method's own unless told otherwise."""
        return METHODS[self.method].source_noise[0] if self.source_noise is None else self.source_noise

    @property
    def steps_used(self) -> int:
        """Denoising steps, the method's own unless told otherwise."""
        return METHODS[self.method].steps if self.steps is None else self.steps

    @property
    def guidance_used(self) -> float:
        """Guidance scale, the method's own unless told otherwise."""
        return METHODS[self.method].guidance_scale if self.guidance_scale is None else self.guidance_scale

    @property
    def has_own_settings(self) -> bool:
        """Whether guidance and steps are the method's own, which calibrations are made with."""
        own = METHODS[self.method]
        return (self.guidance_used, self.steps_used) == (own.guidance_scale, own.steps)

    def _require_no_diffusion_settings(self) -> None:
        for name in ("guidance_scale", "steps"):
            if getattr(self, name) is not None:
                raise RequestError(f"Method {self.method} has no {name}.", "Leave it out, or use method inversion.")


def default_method(root: Path | None = None) -> str:
    """Return the method that is used unless one is named.

    `DEFAULT_METHOD`, or `WITHOUT_PAIRS` where there is no model for it: who trained on scans alone has none.

    Args:
        root: See `locate_model`.
    """
    try:
        locate_model(METHODS[DEFAULT_METHOD].model, root)
    except CheckpointError:
        return WITHOUT_PAIRS
    return DEFAULT_METHOD


def method_for(steps: int | None, guidance_scale: float | None, own: str) -> str:
    """Return ``own``, or the diffusion method if one of its settings is given; for requests that name no method."""
    return own if steps is None and guidance_scale is None else WITHOUT_PAIRS


def load_editor(method: str, root: Path | None = None, device: str | torch.device = "cpu") -> AnyEditor:
    """Load the model that a method needs.

    Args:
        method: One of `METHODS`.
        root: See `locate_model`.
        device: Torch device.

    Raises:
        RequestError: There is no such method.
        CheckpointError: There is no such model.
    """
    if method not in METHODS:
        raise RequestError(f"'{method}' is not a method.", f"Use one of: {', '.join(METHODS)}.")
    kinds: Mapping[str, type[Editor] | type[DirectEditor]] = {"editor": Editor, "direct_editor": DirectEditor}
    kind = METHODS[method].model
    return kinds[kind].load(locate_model(kind, root), device)
