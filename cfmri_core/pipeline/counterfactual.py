"""The counterfactual: the same anatomy under other acquisition parameters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import cfmri_core
from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import ModelOutputError
from cfmri_core.pipeline.detail_transfer import change_at_native_size
from cfmri_core.pipeline.image_editing import Placement, edit_images
from cfmri_core.pipeline.method import METHODS, AnyEditor, EditRequest
from cfmri_core.pipeline.support import support_warnings
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack, slab
from cfmri_core.volume import Volume


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
    placement = Placement(seen_first, float(volume.spacing_mm[whole.slice_axis]))
    edited = edit_images(images, factual, requested, request, editor, placement, progress)
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
    steps, guidance = request.steps_used, request.guidance_used
    evaluations = METHODS[request.method].evaluations_per_step + (request.method == "inversion" and guidance != 1)
    if is_null and request.method != "paper" and request.keeps_unexplained:
        evaluations = 0
    return {
        "method": request.method,
        "guidance_scale": guidance,
        "steps": steps,
        "seed": request.seed,
        "source_noise": request.noise_used,
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
