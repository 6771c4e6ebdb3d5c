"""The counterfactual: the same anatomy under other acquisition parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import ModelOutputError
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.pipeline.detail_transfer import FinerNoise, change_at_native_size, detail_level
from cfmri_core.pipeline.image_editing import Placement, edit_images, noise_level
from cfmri_core.pipeline.made_by import made_by
from cfmri_core.pipeline.method import METHODS, AnyEditor, EditRequest
from cfmri_core.pipeline.source_noise import NoiseLevel, renewed_finer_noise
from cfmri_core.pipeline.support import support_warnings
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack, slab
from cfmri_core.volume import Volume

#: Slices that are edited together at most.
SLICES_AT_ONCE = 32
#: Slices in the middle of a volume of more than that many, which its noise is measured on.
SLICES_MEASURED = 12


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
    whole = SliceStack.of(volume, editor.image_size, editor.keeps_aspect)
    scale = IntensityScale.of(volume.voxels)
    first, last = request.slices or (0, whole.count)
    source = slab(volume, whole.slice_axis, first, last)
    voxels, quality = np.empty(source.shape, np.float32), _Quality()
    # A magnitude image has no negative values; a source that has some may keep as low ones.
    lowest = min(0.0, float(volume.voxels.min()))
    parts = [_Part(volume, whole, scale, *ends) for ends in _parts(first, last)]
    for part, change in _changes(parts, factual, requested, request, editor, progress):
        quality.add(change)
        place = [slice(None)] * 3
        place[whole.slice_axis] = slice(part.first - first, part.last - first)
        added = whole.voxels(change) * (scale.high - scale.low)
        voxels[tuple(place)] = np.maximum(source.voxels[tuple(place)] + added, lowest)
    evidence = {
        **_provenance(request, factual, requested, editor),
        "slices": [first, last],
        "slice_axis": "ijk"[whole.slice_axis],
        "intensity_scale": {"low": scale.low, "high": scale.high},
        "warnings": [
            *support_warnings(factual, requested, editor.spec),
            *_ineffective(editor, factual, requested),
        ],
        "quality": quality.found(float(np.ptp(scale.normalise(np.array([volume.voxels.min(), volume.voxels.max()]))))),
        "elapsed_s": round(time.monotonic() - started, 2),
    }
    return Counterfactual(source.with_voxels(voxels), requested, evidence)


@dataclass(frozen=True)
class _Noise:
    """How strong the noise of a volume is, in what the network sees and in what is finer."""

    seen: NoiseLevel
    finer: float


@dataclass(frozen=True)
class _Part:
    """Some slices of a volume: memory stays the same however many slices the volume has."""

    volume: Volume
    whole: SliceStack
    scale: IntensityScale
    first: int
    last: int

    def changed(
        self,
        factual: AcquisitionParameters,
        requested: AcquisitionParameters,
        request: EditRequest,
        editor: AnyEditor,
        noise: _Noise | None,
        progress: Progress,
    ) -> NDArray[np.float32]:
        """Return what an edit changes in the slices, normalised intensity, ``(slices, rows, columns)``.

        Without ``noise`` it is measured on these slices and those around them that matter to them.
        """
        seen_first = max(0, self.first - editor.reach)
        native, images, stack = self._seen(seen_first, min(self.whole.count, self.last + editor.reach), editor)
        placement = Placement(
            seen_first,
            slice_distance_mm=float(self.volume.spacing_mm[self.whole.slice_axis]),
            low_signal=self._low_signal,
            noise=noise.seen if noise else None,
        )
        edited = edit_images(images, factual, requested, request, editor, placement, progress)
        asked_for = slice(self.first - seen_first, self.last - seen_first)
        finer_noise = _finer_noise(factual, requested, request, editor, seen_first)
        change = change_at_native_size(native, images, edited, stack, finer_noise, noise.finer if noise else None)[
            asked_for
        ]
        if not np.all(np.isfinite(change)):
            raise ModelOutputError("The editor produced values that are not finite.", "Try method paper, or retrain.")
        return change

    def noise(self, factual: AcquisitionParameters, editor: DirectEditor, progress: Progress) -> _Noise:
        """Measure how strong the noise is in these slices."""
        native, images, stack = self._seen(self.first, self.last, editor)
        seen = noise_level(images, factual, editor, self._low_signal, progress)
        return _Noise(seen, detail_level(native, images, stack))

    def _seen(self, first: int, last: int, editor: AnyEditor) -> tuple[NDArray[np.float32], Tensor, SliceStack]:
        """Return slices, normalised, on their own matrix and as the editor sees them, and how the two relate."""
        seen = slab(self.volume, self.whole.slice_axis, first, last)
        stack = SliceStack.of_axis(seen, editor.image_size, self.whole.slice_axis, editor.keeps_aspect)
        native = self.scale.normalise(np.asarray(stack.native(seen.voxels)))
        return native, stack.images(native), stack

    @property
    def _low_signal(self) -> float:
        return max(0.0, self.scale.low) / (self.scale.high - self.scale.low)


def _changes(
    parts: Sequence[_Part],
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    request: EditRequest,
    editor: AnyEditor,
    progress: Progress,
) -> Iterator[tuple[_Part, NDArray[np.float32]]]:
    """Edit the parts in turn; where their noise is not that of the volume, this is measured before."""
    pieces, noise, any_part = len(parts), None, parts[0]
    if isinstance(editor, DirectEditor) and _is_measured_apart(editor, factual, requested, request, any_part.whole):
        pieces += 1
        first, last = _measured_slices(any_part.whole.count)
        middle = replace(any_part, first=first, last=last)
        noise = middle.noise(factual, editor, _within(progress, 0, pieces))
    for number, part in enumerate(parts, pieces - len(parts)):
        yield part, part.changed(factual, requested, request, editor, noise, _within(progress, number, pieces))


def _is_measured_apart(
    editor: DirectEditor,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    request: EditRequest,
    whole: SliceStack,
) -> bool:
    """Whether the noise matters, and is not that of the very slices that are edited."""
    if request.noise_used == "keep" or (request.keeps_unexplained and editor.is_null(factual, requested)):
        return False
    return whole.count > SLICES_AT_ONCE or request.slices not in (None, (0, whole.count))


def _measured_slices(count: int) -> tuple[int, int]:
    """The slices of a volume that its noise is measured on, whichever are edited: parts then have no steps between."""
    if count <= SLICES_AT_ONCE:
        return 0, count
    first = max(0, (count - SLICES_MEASURED) // 2)
    return first, min(count, first + SLICES_MEASURED)


def _finer_noise(
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    request: EditRequest,
    editor: AnyEditor,
    first_slice: int,
) -> FinerNoise | None:
    """What becomes of noise that is finer than the network sees; ``None`` leaves it to the contrast around it."""
    if request.noise_used == "keep" or not isinstance(editor, DirectEditor):
        return None
    ratio = 0.0 if request.noise_used == "remove" else editor.noise_ratio(factual, requested)
    if request.noise_used == "renew":
        return partial(renewed_finer_noise, ratio=ratio, seed=request.seed, first_slice=first_slice)
    return lambda noise, _level, _stack: ratio * noise


def _parts(first: int, last: int) -> list[tuple[int, int]]:
    """Divide slices evenly into parts of `SLICES_AT_ONCE` at most."""
    count = -(-(last - first) // SLICES_AT_ONCE)
    ends = [first + round((last - first) * number / count) for number in range(count + 1)]
    return list(pairwise(ends))


def _within(progress: Progress, number: int, count: int) -> Progress:
    """Tell how far all parts are while one of them reports; the parts are alike."""
    if count == 1:
        return progress
    return lambda step, total, message: progress(number * total + step, count * total, message)


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
        **made_by(editor),
        **_settings(request, is_null=editor.is_null(factual, requested)),
        **_fitted(editor, factual, requested),
        "factual": factual.as_dict(),
        "requested": requested.as_dict(),
        "changes": {name: list(values) for name, values in factual.differences(requested).items()},
    }


def _fitted(editor: AnyEditor, factual: AcquisitionParameters, requested: AcquisitionParameters) -> dict[str, Any]:
    """What the editor knows of the two scanners from a site's own scans, if anything."""
    if not isinstance(editor, DirectEditor) or not editor.scanners.patients:
        return {}
    models = {one.manufacturer_model for one in (factual, requested)}
    patients = {model: count for model, count in editor.scanners.patients.items() if model in models}
    return {"scanner_fit": {"log_fat_change": editor.scanners.fat_change(factual, requested), "patients": patients}}


def _ineffective(editor: AnyEditor, factual: AcquisitionParameters, requested: AcquisitionParameters) -> list[str]:
    """Say which of the changes the editor does not see, neither alone nor beside the others."""
    changed = [name for name in editor.spec.blocks if name in factual.differences(requested)]
    return [
        f"{name}: the requested value {getattr(requested, name)} has no effect; this model takes it for the source's."
        for name in changed
        if editor.is_null(factual, factual.replaced({name: getattr(requested, name)}))
        and editor.is_null(requested.replaced({name: getattr(factual, name)}), requested)
    ]


def _settings(request: EditRequest, *, is_null: bool) -> dict[str, Any]:
    steps, guidance = request.steps_used, request.guidance_used
    evaluations = METHODS[request.method].evaluations_per_step + (request.method == "inversion" and guidance != 1)
    if is_null and request.keeps_unexplained:
        evaluations = 0
    return {
        "method": request.method,
        "guidance_scale": guidance,
        "steps": steps,
        "seed": request.seed,
        "source_noise": request.noise_used,
        "network_evaluations_per_slice": steps * evaluations,
    }


class _Quality:
    """How much changed: root mean square and largest change, as a share of the source's intensity range."""

    def __init__(self) -> None:
        self._squares, self._count, self._largest = 0.0, 0, 0.0

    def add(self, change: NDArray[np.float32]) -> None:
        """Count what changes in some more slices."""
        self._squares += float(np.sum(change**2, dtype=np.float64))
        self._count += change.size
        self._largest = max(self._largest, float(np.abs(change).max()))

    def found(self, span: float) -> dict[str, float]:
        """Return it, JSON-ready; ``span`` is the range of the whole source, in the unit of the change."""
        return {
            "change_rms": round(math.sqrt(self._squares / self._count) / span, 5),
            "change_max": round(self._largest / span, 5),
        }
