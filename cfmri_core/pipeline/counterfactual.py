"""The counterfactual: the same anatomy under other acquisition parameters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cfmri_core
from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.diffusion.sampling import Callback, edit_friendly, independent_noise, paper_edit, shared_noise
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.errors import CheckpointError, ModelOutputError, RequestError
from cfmri_core.models.direct_editor import STEADYING, DirectEditor, with_neighbours
from cfmri_core.models.editor import Editor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.signal_decoder import REFERENCE_DISTANCE_MM, PseudoMaps
from cfmri_core.pipeline.detail_transfer import change_at_native_size
from cfmri_core.pipeline.support import support_warnings
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack, slab
from cfmri_core.volume import Volume


@dataclass(frozen=True)
class Method:
    """How an editing method runs unless told otherwise.

    Attributes:
        model: Kind of model it needs.
        steps: Denoising steps; 1 for a method without.
        guidance_scale: 1 follows the target condition, more exaggerates it.
        depth: Schedule index that the source is taken to, of 1000; 0 for a method without.
        evaluations_per_step: Network evaluations per slice and step.
    """

    model: str
    steps: int
    guidance_scale: float
    depth: int
    evaluations_per_step: int


#: `fast`: one evaluation of the direct editor, which was trained on simulated pairs. `inversion`: edit-friendly DDPM
#: inversion (Huberman-Spiegelglas et al., CVPR 2024) with the source condition as the base of guidance; steps, guidance
#: and depth chosen on 8 simulated validation patients among settings of at most 40 evaluations (guidance 1 comes nearer
#: to the truth by 0.4 dB but makes only half of the change). `paper`: Algorithm 1 of Morão et al. as they run it.
METHODS: Mapping[str, Method] = {
    "fast": Method("direct_editor", steps=1, guidance_scale=1.0, depth=0, evaluations_per_step=1),
    "inversion": Method("editor", steps=13, guidance_scale=1.25, depth=999, evaluations_per_step=2),
    "paper": Method("editor", steps=50, guidance_scale=3.0, depth=50, evaluations_per_step=2),
}
DEFAULT_METHOD, WITHOUT_PAIRS = "fast", "inversion"
#: What can be done with the source's noise: keep it in the result; or, with method `fast` only, bring it to the level
#: that the requested protocol has, or remove it.
SOURCE_NOISE = ("keep", "scale", "remove")
AnyEditor = Editor | DirectEditor
#: Slices edited together: bounds memory.
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """What to change, and how.

    Attributes:
        changes: New values by parameter name.
        method: One of `METHODS`.
        guidance_scale: From 0 to 10; ``None`` takes the method's own.
        steps: From 1 to 1000; ``None`` takes the method's own. `paper` has one step per noise level.
        seed: Seed of the noise; the same seed gives the same result.
        source_noise: One of `SOURCE_NOISE`; the other methods only keep it.
        slices: First and one past the last slice along the slice axis; ``None`` edits all.

    Raises:
        RequestError: A value is out of its range.
    """

    changes: Mapping[str, str | float] = field(default_factory=dict)
    method: str = DEFAULT_METHOD
    guidance_scale: float | None = None
    steps: int | None = None
    seed: int = 0
    source_noise: str = SOURCE_NOISE[0]
    slices: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RequestError(f"'{self.method}' is not a method.", f"Use one of: {', '.join(METHODS)}.")
        if self.source_noise not in SOURCE_NOISE:
            raise RequestError(f"source_noise is '{self.source_noise}'.", f"Use one of: {', '.join(SOURCE_NOISE)}.")
        if METHODS[self.method].depth == 0:
            self._require_no_diffusion_settings()
            return
        if self.source_noise != "keep":
            raise RequestError(
                f"Method {self.method} cannot {self.source_noise} noise.", "Use method fast, or keep the noise."
            )
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= 10:
            raise RequestError(f"guidance_scale is {self.guidance_scale}.", "Give a value from 0 to 10.")
        highest = METHODS[self.method].depth
        if self.steps is not None and not 1 <= self.steps <= highest:
            raise RequestError(f"steps is {self.steps}.", f"Give a whole number from 1 to {highest}.")

    def _require_no_diffusion_settings(self) -> None:
        for name in ("guidance_scale", "steps"):
            if getattr(self, name) is not None:
                raise RequestError(f"Method {self.method} has no {name}.", "Leave it out, or use method inversion.")


@dataclass(frozen=True)
class Counterfactual:
    """An edited volume and how it came about.

    Attributes:
        volume: float32, in the source's intensity units, on its grid or the slab of it that was asked for.
        requested: Acquisition parameters it imitates.
        evidence: JSON-ready provenance and quality.
    """

    volume: Volume
    requested: AcquisitionParameters
    evidence: dict[str, Any]


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


def edit_volume(
    volume: Volume,
    factual: AcquisitionParameters,
    request: EditRequest,
    editor: AnyEditor,
    *,
    progress: Progress = silent,
) -> Counterfactual:
    """Show a volume as it would have looked under other acquisition parameters.

    The network edits at its working resolution; only the *change* is resampled to the native matrix
    and added to the source, whose own detail stays and follows the contrast around it (see
    `cfmri_core.pipeline.detail_transfer`). An edit to the same parameters returns the source.

    Args:
        volume: Source, scanner units.
        factual: How it was acquired, as far as known.
        request: What to change.
        editor: Trained editor of the kind the method needs, see `load_editor`; it decides the device.
        progress: Called per step of each batch of slices; raise `Cancelled` in it to cancel.

    Raises:
        AcquisitionError: A requested value is out of range.
        RequestError: The slices do not exist, or the editor is of another kind.
        ModelOutputError: The network produced values that are not finite.
    """
    started = time.monotonic()
    requested = requested_parameters(factual, request.changes)
    keeps_aspect = editor.keeps_aspect
    whole = SliceStack.of(volume, editor.image_size, keeps_aspect)
    scale = IntensityScale.of(volume.voxels)
    first, last = request.slices or (0, whole.count)
    source = slab(volume, whole.slice_axis, first, last)
    seen_first, seen_last = max(0, first - editor.reach), min(whole.count, last + editor.reach)
    seen = slab(volume, whole.slice_axis, seen_first, seen_last)
    stack = SliceStack.of_axis(seen, editor.image_size, whole.slice_axis, keeps_aspect)
    native = scale.normalise(np.asarray(stack.native(seen.voxels)))
    images = stack.images(native)
    edited = edit_images(
        images,
        factual,
        requested,
        editor,
        method=request.method,
        guidance_scale=request.guidance_scale,
        steps=request.steps,
        seed=request.seed,
        source_noise=request.source_noise,
        first_slice=seen_first,
        slice_distance_mm=float(volume.spacing_mm[whole.slice_axis]),
        progress=progress,
    )
    asked_for = slice(first - seen_first, last - seen_first)
    change = change_at_native_size(native, images, edited, stack)[asked_for]
    native = native[asked_for]
    if not np.all(np.isfinite(change)):
        raise ModelOutputError("The editor produced values that are not finite.", "Try method paper, or retrain.")
    voxels = source.voxels.astype(np.float32) + np.asarray(stack.voxels(change)) * (scale.high - scale.low)
    # A magnitude image has no negative values; a source that has some may keep as low ones.
    voxels = np.maximum(voxels, min(0.0, float(volume.voxels.min())))
    evidence = {
        **_provenance(request, factual, requested, editor),
        "slices": [first, last],
        "slice_axis": "ijk"[whole.slice_axis],
        "intensity_scale": {"low": scale.low, "high": scale.high},
        "warnings": support_warnings(factual, requested, editor.spec),
        "quality": _quality(native, change),
        "elapsed_s": round(time.monotonic() - started, 2),
    }
    return Counterfactual(source.with_voxels(voxels.astype(np.float32)), requested, evidence)


def requested_parameters(factual: AcquisitionParameters, changes: Mapping[str, str | float]) -> AcquisitionParameters:
    """Apply changes; another scanner model without its manufacturer leaves the manufacturer unknown."""
    requested = factual.replaced(changes)
    if requested.manufacturer_model != factual.manufacturer_model and "manufacturer" not in changes:
        return requested.replaced({"manufacturer": None})
    return requested


def edit_images(
    images: Tensor,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    editor: AnyEditor,
    *,
    method: str = DEFAULT_METHOD,
    guidance_scale: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    source_noise: str = SOURCE_NOISE[0],
    first_slice: int = 0,
    slice_distance_mm: float = REFERENCE_DISTANCE_MM,
    progress: Progress = silent,
) -> Tensor:
    """Edit network images of one volume; with `inversion` all slices share the noise, so they change alike.

    Args:
        images: Normalised slices (10th percentile 0, 99th 1), shape ``(slices, 1, size, size)``.
        factual: Their acquisition parameters.
        requested: The parameters to imitate.
        editor: Trained editor of the kind the method needs.
        method: One of `METHODS`.
        guidance_scale: See `EditRequest`.
        steps: See `EditRequest`.
        seed: Seed of the noise.
        source_noise: See `EditRequest`.
        first_slice: Number of the first slice in its volume; a slab then gets the noise it has in the whole.
        slice_distance_mm: Between the centres of neighbouring slices; only `fast` asks.
        progress: Called per step.

    Returns:
        Edited slices, same shape and scale.

    Raises:
        RequestError: The editor is of another kind.
    """
    if isinstance(editor, DirectEditor):
        _require_model(method, "direct_editor")
        return _edit_directly(images, factual, requested, editor, source_noise, slice_distance_mm, progress)
    _require_model(method, "editor")
    source, target = editor.spec.encode(factual)[None], editor.spec.encode(requested)[None]
    defaults = METHODS[method]
    run = _Run(
        editor,
        method,
        defaults.steps if steps is None else steps,
        defaults.guidance_scale if guidance_scale is None else guidance_scale,
        seed,
    )
    return run.in_batches(images, source, target, first_slice, progress)


def _require_model(method: str, kind: str) -> None:
    if METHODS[method].model != kind:
        raise RequestError(
            f"Method {method} needs a model of kind '{METHODS[method].model}', not '{kind}'.", "Choose another method."
        )


def _edit_directly(
    images: Tensor,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    editor: DirectEditor,
    source_noise: str,
    slice_distance_mm: float,
    progress: Progress,
) -> Tensor:
    if torch.equal(*map(editor.spec.encode, (factual, requested))) and source_noise != "remove":
        return images.clone()
    batches = torch.split(with_neighbours(images), BATCH)
    read = []
    with torch.inference_mode():
        for batch in batches:
            read.append(editor.maps(batch.to(editor.device), [factual]))
            progress(len(read), len(batches) + 1, "reading maps")
        maps = PseudoMaps.joined(read).steadied(torch.tensor(STEADYING))
        edited = editor.images(maps, [requested], slice_distance_mm).cpu()
        if source_noise != "remove":
            # What the maps do not explain, noise above all.
            rest = images - editor.images(maps, [factual], slice_distance_mm).cpu()
            edited = edited + rest * (editor.noise_ratio(factual, requested) if source_noise == "scale" else 1.0)
    progress(len(batches) + 1, len(batches) + 1, "showing them under the requested protocol")
    return edited


@dataclass(frozen=True)
class _Run:
    """One method with its settings."""

    editor: Editor
    method: str
    steps: int
    guidance_scale: float
    seed: int

    def in_batches(
        self, images: Tensor, source: Tensor, target: Tensor, first_slice: int, progress: Progress
    ) -> Tensor:
        scale, batches, edited = self.editor.normalisation, torch.split(images, BATCH), []
        for number, batch in enumerate(batches):

            def report(step: int, total: int, done: int = number) -> None:
                progress(done * total + step, len(batches) * total, "editing")

            start = first_slice + number * BATCH
            with torch.inference_mode():
                x0 = scale.to_network(batch).to(self.editor.device)
                result = self.edit(x0, source, target, range(start, start + len(batch)), report)
            edited.append(scale.from_network(result.cpu(), batch))
        return torch.cat(edited)

    def edit(self, x0: Tensor, source: Tensor, target: Tensor, numbers: range, callback: Callback) -> Tensor:
        rows, columns = x0.shape[2:]
        alpha_bar, device = self.editor.alpha_bar, self.editor.device
        if self.method == "paper":
            return paper_edit(
                self.editor.eps,
                x0,
                target,
                alpha_bar,
                noise=independent_noise(self.seed, list(numbers), rows, columns, device),
                start=self.steps,
                guidance_scale=self.guidance_scale,
                pin_values=(self.editor.normalisation.low_value, self.editor.normalisation.high_value),
                callback=callback,
            )
        return edit_friendly(
            self.editor.eps,
            x0,
            source,
            target,
            alpha_bar,
            index_grid(METHODS[self.method].depth, self.steps),
            noise=shared_noise(self.seed, rows, columns, device),
            guidance_scale=self.guidance_scale,
            callback=callback,
        )


def _provenance(
    request: EditRequest, factual: AcquisitionParameters, requested: AcquisitionParameters, editor: AnyEditor
) -> dict[str, Any]:
    """What was asked of which model."""
    return {
        "synthetic": True,
        "cfmri_version": cfmri_core.__version__,
        "model": {"kind": METHODS[request.method].model, "sha256": editor.sha256, "preset": editor.preset},
        **_settings(request, is_null=bool(torch.equal(*map(editor.spec.encode, (factual, requested))))),
        "factual": factual.as_dict(),
        "requested": requested.as_dict(),
        "changes": {name: list(values) for name, values in factual.differences(requested).items()},
    }


def _settings(request: EditRequest, *, is_null: bool) -> dict[str, Any]:
    method = METHODS[request.method]
    steps = method.steps if request.steps is None else request.steps
    guidance = method.guidance_scale if request.guidance_scale is None else request.guidance_scale
    evaluations = method.evaluations_per_step + (request.method == "inversion" and guidance != 1)
    if is_null and request.method != "paper":
        evaluations = 0
    return {
        "method": request.method,
        "guidance_scale": guidance,
        "steps": steps,
        "seed": request.seed,
        "source_noise": request.source_noise,
        "network_evaluations_per_slice": steps * evaluations,
    }


def _quality(
    native: np.ndarray[Any, np.dtype[np.float32]], change: np.ndarray[Any, np.dtype[np.float32]]
) -> dict[str, float]:
    """How much changed: root mean square and largest change, as a share of the source's intensity range."""
    span = float(native.max() - native.min())
    return {
        "change_rms": round(float(np.sqrt(np.mean(change**2))) / span, 5),
        "change_max": round(float(np.abs(change).max()) / span, 5),
    }
