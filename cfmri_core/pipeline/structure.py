"""The structure counterfactual: the same scan with more or less fibroglandular tissue in the breast."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import GeometryError, ModelOutputError, RequestError
from cfmri_core.models.structure_editor import GREATEST_SHARE, LEAST_SHARE, SEG_CFT, StructureEditor
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.local_change import with_local_change
from cfmri_core.pipeline.made_by import made_by
from cfmri_core.pipeline.share_reading import ShareReader
from cfmri_core.pipeline.structure_images import (
    METHODS,
    STRUCTURE_METHODS,
    Breasts,
    change_of_images,
    read_breasts,
)
from cfmri_core.pipeline.trust import Support
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack, normalised_images
from cfmri_core.volume import Volume

#: Largest relative change, up and down, that the fine-tuning has seen.
LARGEST_INCREASE, LARGEST_DECREASE = 0.6, -0.4
#: How often the condition is corrected at most, and the relative error of the share that is good enough.
MOST_ROUNDS, GOOD_ENOUGH = 5, 0.01
#: Ratios that the denoisers are asked for at most while the condition is corrected.
_RATIOS = (0.35, 2.6)
#: Breast that a volume has at least, as a share of it, to be edited.
_LEAST_BREAST = 0.005


@dataclass(frozen=True, kw_only=True)
class StructureRequest:
    """How much fibroglandular tissue is wanted, and how it is made.

    Attributes:
        fgt_fraction: Wanted share of the breast volume, from 0.01 to 0.8.
        delta: Wanted relative change of the share instead, from -0.4 to 0.6.
        method: One of `METHODS`.
        seed: Seed of the noise; the same seed gives the same result.
        rounds: How often the edit may be made to come nearer to what is asked for, from 1 to 5.

    Raises:
        RequestError: A value is out of its range, or not exactly one of share and change is given.
    """

    fgt_fraction: float | None = None
    delta: float | None = None
    method: str = SEG_CFT
    seed: int = 0
    rounds: int = MOST_ROUNDS

    def __post_init__(self) -> None:
        if (self.fgt_fraction is None) == (self.delta is None):
            raise RequestError("Say in exactly one way how much.", "Give fgt_fraction (a share) or delta (a change).")
        if self.fgt_fraction is not None and not LEAST_SHARE <= self.fgt_fraction <= GREATEST_SHARE:
            raise RequestError(f"fgt_fraction is {self.fgt_fraction}.", f"Give {LEAST_SHARE} to {GREATEST_SHARE}.")
        if self.delta is not None and not LARGEST_DECREASE <= self.delta <= LARGEST_INCREASE:
            raise RequestError(f"delta is {self.delta}.", f"Give {LARGEST_DECREASE} to {LARGEST_INCREASE}.")
        if self.method not in METHODS:
            raise RequestError(f"'{self.method}' is not a method.", f"Use one of: {', '.join(STRUCTURE_METHODS)}.")
        if self.seed < 0:
            raise RequestError(f"seed is {self.seed}.", "Give a whole number from 0.")
        if not 1 <= self.rounds <= MOST_ROUNDS:
            raise RequestError(f"rounds is {self.rounds}.", f"Give 1 to {MOST_ROUNDS}.")

    def ratio(self, present: float) -> float:
        """Return wanted over present share.

        Raises:
            RequestError: That is further than the fine-tuning has seen.
        """
        change = self.delta if self.delta is not None else float(self.fgt_fraction or 0.0) / present - 1
        if not LARGEST_DECREASE <= change <= LARGEST_INCREASE:
            # Rounded inwards, so that both ends are accepted.
            lowest = max(LEAST_SHARE, math.ceil(1000 * present * (1 + LARGEST_DECREASE)) / 1000)
            highest = min(GREATEST_SHARE, math.floor(1000 * present * (1 + LARGEST_INCREASE)) / 1000)
            raise RequestError(
                f"A share of {self.fgt_fraction} changes this breast's {present:.3f} by {100 * change:+.0f} %.",
                f"Give {lowest:.3f} to {highest:.3f}.",
            )
        return 1 + change


def edit_structure(
    volume: Volume,
    factual: AcquisitionParameters,
    request: StructureRequest,
    editor: StructureEditor,
    *,
    support: Support | None = None,
    progress: Progress = silent,
) -> Counterfactual:
    """Show a volume as it might have looked with another share of fibroglandular tissue.

    The share is that of the whole breast volume, as the editor's reader sees it. Slices are edited at the working
    resolution; the condition is corrected by what the reader finds in the result, a few times at most. Only the
    *change* is resampled to the native matrix and added, inside the breast alone: every other voxel keeps its value.
    Where the source holds whole numbers, so does the result.

    Args:
        volume: Source, scanner units.
        factual: How it was acquired, as far as known.
        request: How much is wanted.
        editor: Trained editor; it decides the device.
        support: What was judged of the source, see `source_support`; goes into the evidence.
        progress: Called per step; raise `Cancelled` in it to cancel.

    Raises:
        RequestError: The wanted share is further from the present one than was trained.
        GeometryError: There is no breast in the volume.
        ModelOutputError: The network produced values that are not finite.
    """
    started = time.monotonic()
    images, stack, scale = normalised_images(volume, editor.image_size)
    breasts = read_breasts(images, editor)
    if float(breasts.area.sum()) < _LEAST_BREAST * images.numel() or breasts.share < LEAST_SHARE / 2:
        raise GeometryError("No breast with fibroglandular tissue is found.", "Give a breast MR volume.")
    made = _Attempts.of(volume, images, breasts, stack, scale, editor)
    ratio = request.ratio(made.present)
    best, rounds = _closed_loop(made, factual, ratio, request, progress)
    voxels, asked = best.voxels, made.present * ratio
    evidence = {
        **_provenance(request, factual, asked, editor),
        "changes": {"fgt_fraction": [round(made.present, 5), round(asked, 5)]},
        "structure": {
            **_shares(made.present, asked, best.share),
            "rounds": rounds,
            "breast_voxels_changed": int((voxels != volume.voxels).sum()),
            "largest_change_outside": float(np.abs(voxels - volume.voxels)[~made.inside].max(initial=0.0)),
        },
        "slice_axis": "ijk"[stack.slice_axis],
        "slices": [0, stack.count],
        "intensity_scale": {"low": scale.low, "high": scale.high},
        "warnings": [*(support.warnings if support else ()), *_warnings(best.share, asked)],
        **({"support": support.to_json()} if support else {}),
        "elapsed_s": round(time.monotonic() - started, 2),
    }
    return Counterfactual(volume.with_voxels(voxels), factual, evidence)


@dataclass(frozen=True)
class _Attempt:
    """One edit: the finished voxels and the share that is found in them."""

    voxels: NDArray[np.float32]
    share: float


@dataclass(frozen=True)
class _Attempts:
    """A volume in which shares are asked for and measured.

    Attributes:
        inside: Where voxels may change.
        present: Share of the source.
    """

    volume: Volume
    images: Tensor
    breasts: Breasts
    stack: SliceStack
    scale: IntensityScale
    editor: StructureEditor
    inside: NDArray[np.bool_]
    reader: ShareReader
    present: float

    @classmethod
    def of(
        cls,
        volume: Volume,
        images: Tensor,
        breasts: Breasts,
        stack: SliceStack,
        scale: IntensityScale,
        editor: StructureEditor,
    ) -> _Attempts:
        inside = stack.voxels(stack.at_native_size(breasts.breast)[:, 0]) > 0.5
        reader = ShareReader(volume, inside, editor.reader)
        present = reader.share(volume.voxels.astype(np.float32))
        if present < LEAST_SHARE / 2:
            raise GeometryError("No fibroglandular tissue is found in the breast.", "Give another volume.")
        return cls(volume, images, breasts, stack, scale, editor, inside, reader, present)

    def with_change(self, change: Tensor) -> _Attempt:
        """Add a change of the working images, in normalised intensity, to the source where the breast is."""
        if not bool(torch.isfinite(change).all()):
            raise ModelOutputError("The editor produced values that are not finite.", "Train it again.")
        added = self.stack.voxels(self.stack.at_native_size(change)[:, 0]) * (self.scale.high - self.scale.low)
        voxels = with_local_change(self.volume.voxels, added, self.inside)
        return _Attempt(voxels, self.reader.share(voxels))


def _closed_loop(
    made: _Attempts, factual: AcquisitionParameters, ratio: float, request: StructureRequest, progress: Progress
) -> tuple[_Attempt, int]:
    """Edit until the finished volume has the share asked for; return the best attempt and the number of edits."""
    if ratio == 1:
        return _Attempt(made.volume.voxels.astype(np.float32), made.present), 0
    tried: list[tuple[float, float]] = []  # logarithms of the ratio that was conditioned on, and of the one reached
    attempts: list[_Attempt] = []
    condition = wanted = math.log(ratio)
    for _ in range(request.rounds):
        change = change_of_images(
            made.images, made.breasts, factual, math.exp(condition), request.method, made.editor, request.seed, progress
        )
        attempts.append(made.with_change(change))
        tried.append((condition, math.log(max(attempts[-1].share, 1e-4) / made.present)))
        if abs(tried[-1][1] - wanted) < GOOD_ENOUGH:
            break
        condition = _next_condition(tried, wanted)
    errors = [abs(reached - wanted) for _, reached in tried]
    return attempts[errors.index(min(errors))], len(tried)


def _next_condition(tried: list[tuple[float, float]], wanted: float) -> float:
    """Return where to look next: by the secant of the last two tries, or by the slope through no change at all."""
    earlier = tried[-2] if len(tried) > 1 else (0.0, 0.0)
    (x0, y0), (x1, y1) = earlier, tried[-1]
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 0.0
    slope = slope if slope > 0.2 else 1.0
    low, high = (math.log(limit) for limit in _RATIOS)
    return min(high, max(low, x1 + (wanted - y1) / slope))


def _warnings(obtained: float, asked: float) -> list[str]:
    if abs(obtained / asked - 1) <= 0.05:
        return []
    return [f"share: {asked:.3f} was asked for, {obtained:.3f} was obtained; the method does not reach further here."]


def _provenance(
    request: StructureRequest, factual: AcquisitionParameters, share_asked: float, editor: StructureEditor
) -> dict[str, Any]:
    """What was asked of which model."""
    return {
        **made_by(editor),
        "edit": f"fibroglandular share {100 * share_asked:.1f}%",
        "method": request.method,
        "seed": request.seed,
        "factual": factual.as_dict(),
        "requested": factual.as_dict(),
    }


def _shares(before: float, asked: float, obtained: float) -> dict[str, Any]:
    return {
        "share_before": round(before, 5),
        "share_asked": round(asked, 5),
        "share_obtained": round(obtained, 5),
        "relative_error": round(obtained / asked - 1, 5),
        "measured_by": "the editor's reader",
    }
