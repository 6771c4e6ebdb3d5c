"""How far may an edited voxel lie from the truth? A map of half-widths, calibrated on paired truth.

An edit is replayed with other seeds; where the replays differ, it is uncertain. But replays share what the
network got wrong, and a method without a diffusion has none, so the spread alone covers far too little. The
expected error of a voxel is therefore a sum of what predicts it, with weights fitted to the absolute error
on paired truth of validation subjects:

    scale = constant + a * (deviation of the replays) + b * (gradient of the result) + c * |smoothed change|

Gradient, because errors of position and sharpness grow with it; change, because an edit errs in
proportion to what it changes. For a method without replays a is 0 and the others carry the map. The scale
is then multiplied by the quantile of |error| / scale over subjects, each under weights fitted without it.

Everything is in normalised units, each volume in its own (1 = its P10-P99 range): no acquisition parameter
fixes the gain, so the truth's scanner units are unknown. In scanner units a half-width refers to a truth
that has been scaled to the result's range.

Sources: Lei et al., J Am Stat Assoc 2018;113:1094-1111, section 5.2 (locally weighted conformal prediction);
Vovk, Ann Math Artif Intell 2015;74:9-28 (cross-conformal prediction); Dunn, Wasserman & Ramdas, J Am Stat
Assoc 2023;118:2491-2502 (subjects as the unit: each weighs the same, however many voxels it has).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import nnls

from cfmri_core.anatomy_agreement import gradient_magnitude
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.json_text import number
from cfmri_core.models.companion import checked_companion, read_companion, write_companion

Voxels = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

#: Nominal share of voxels inside the interval.
LEVEL = 0.9
#: File beside the weights of an editor.
FILE_NAME = "uncertainty.json"

#: What the scale is made of, see above.
TERMS = ("constant", "deviation", "gradient", "change")
#: Least scale, in normalised units: the intensity step of an 8-bit display.
_SCALE_FLOOR = 1 / 256
#: The change is smoothed by so many voxels: that of a single voxel is as much error as it is change.
_CHANGE_WINDOW = (1.5, 1.5, 0.0)
_FOLDS = 5
#: Voxels per subject that the calibration looks at.
_SAMPLE = 20_000


@dataclass(frozen=True)
class Replays:
    """What replays of one edit with other seeds gave, in the unit of the edit.

    Attributes:
        mean: Per voxel.
        deviation: Standard deviation per voxel (n - 1); 0 for a single replay.
        count: Number of replays.
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    count: int


def replayed(edit: Callable[[int], Voxels], seeds: Sequence[int]) -> Replays:
    """Run an edit once per seed and sum up; only two volumes are kept in memory.

    Args:
        edit: Returns the edited voxels for a seed, always of one shape.
        seeds: One or more.

    Raises:
        RequestError: No seed.

    Source: Welford, Technometrics 1962;4:419-420.
    """
    if not seeds:
        raise RequestError("There is no seed to replay the edit with.", "Give at least one.")
    mean = np.zeros(1)
    squares = np.zeros(1)
    for count, seed in enumerate(seeds, 1):
        voxels = np.asarray(edit(seed), dtype=np.float64)
        step = voxels - mean
        mean = mean + step / count
        squares = squares + step * (voxels - mean)
    deviation = np.sqrt(squares / max(1, len(seeds) - 1)) if len(seeds) > 1 else np.zeros_like(mean)
    return Replays(mean, deviation, len(seeds))


@dataclass(frozen=True)
class PairedEdit:
    """One edit of a validation subject with its paired truth; volumes of one shape, slices last, normalised units.

    Attributes:
        source: Before the edit.
        result: After the edit.
        deviation: Of the replays; zeros where there are none.
        truth: Noise-free volume under the requested parameters.
        mask: Where errors count, e.g. the breast.
    """

    source: Voxels
    result: Voxels
    deviation: Voxels
    truth: Voxels
    mask: Mask


@dataclass(frozen=True)
class UncertaintyCalibration:
    """How half-widths follow from an edit, for one method of one editor; volumes have their slices last.

    Attributes:
        weights: Of each of `TERMS`.
        factor: Half-width per unit of the scale.
        replays: Replays that the deviation was made of.
        subjects: Validation subjects.
        level: Nominal coverage.
    """

    weights: Mapping[str, float]
    factor: float
    replays: int
    subjects: int
    level: float = LEVEL

    def half_widths(self, source: Voxels, result: Voxels, deviation: Voxels) -> NDArray[np.float64]:
        """Return half the width of the interval around ``result`` per voxel; all in normalised units."""
        scale = sum(self.weights[name] * term for name, term in _terms(source, result, deviation).items())
        return np.asarray(self.factor * np.maximum(scale, _SCALE_FLOOR), dtype=np.float64)


def fit_uncertainty(edits: Sequence[PairedEdit], replays: int, level: float = LEVEL) -> UncertaintyCalibration:
    """Calibrate half-widths on paired truth.

    The weights are fitted to all edits. The factor is the quantile of the scores of each edit under weights
    fitted without its fold (up to 5 folds; a single edit scores itself).

    Args:
        edits: Of validation subjects, which the editor was neither trained nor tuned on.
        replays: Replays in their deviations.
        level: Share of voxels that the intervals shall cover.

    Raises:
        RequestError: No edit.
    """
    if not edits:
        raise RequestError("There is no paired truth to calibrate on.", "Simulate studies with --paired.")
    samples = [_sampled(edit) for edit in edits]
    folds = min(_FOLDS, len(samples))
    scores = []
    for left_out, (terms, error) in enumerate(samples):
        others = [sample for index, sample in enumerate(samples) if index % folds != left_out % folds] or samples
        scores.append(error / np.maximum(terms @ _fitted(others), _SCALE_FLOOR))
    weights = {name: float(f"{weight:.5g}") for name, weight in zip(TERMS, _fitted(samples), strict=True)}
    return UncertaintyCalibration(weights, float(f"{_pooled_quantile(scores, level):.5g}"), replays, len(edits), level)


def coverage(half_widths: Voxels, result: Voxels, truth: Voxels, mask: Mask) -> float:
    """Return the share of voxels in the mask whose truth lies inside the interval; all in normalised units."""
    return float((np.abs(result - truth) <= half_widths)[mask].mean())


def write_uncertainty(folder: Path, calibrations: Mapping[str, UncertaintyCalibration], sha256: str) -> Path:
    """Write calibrations by method beside an editor's weights; see `write_companion`."""
    return write_companion(
        folder, FILE_NAME, sha256, {"methods": {name: vars(one) for name, one in calibrations.items()}}
    )


def read_uncertainty(folder: Path, sha256: str) -> dict[str, UncertaintyCalibration]:
    """Read the calibrations of an editor by method; empty where it has none.

    Raises:
        CheckpointError: They are damaged or belong to other weights.
    """
    values = read_companion(folder, FILE_NAME, sha256)
    if values is None:
        return {}
    path = Path(folder) / FILE_NAME
    with checked_companion(path):
        calibrations = {name: _calibration(one) for name, one in values["methods"].items()}
    if any(set(one.weights) != set(TERMS) for one in calibrations.values()):
        raise CheckpointError(f"{path} holds other terms than {', '.join(TERMS)}.", "Calibrate the model again.")
    return calibrations


def _calibration(values: Mapping[str, Any]) -> UncertaintyCalibration:
    weights = {name: number(weight, 0) for name, weight in values["weights"].items()}
    replays, subjects = (int(number(values[name], 0)) for name in ("replays", "subjects"))
    return UncertaintyCalibration(weights, number(values["factor"], 0), replays, subjects, number(values["level"], 0))


def _terms(source: Voxels, result: Voxels, deviation: Voxels) -> dict[str, NDArray[np.float64]]:
    change = np.abs(gaussian_filter(np.asarray(result - source, dtype=np.float64), _CHANGE_WINDOW))
    values = (np.ones(result.shape), deviation, gradient_magnitude(result), change)
    return dict(zip(TERMS, (np.asarray(value, dtype=np.float64) for value in values), strict=True))


def _sampled(edit: PairedEdit) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Terms ``(voxels, 4)`` and absolute errors of voxels spread evenly over the mask."""
    inside = np.flatnonzero(edit.mask)
    inside = inside[:: max(1, len(inside) // _SAMPLE)]
    terms = _terms(edit.source, edit.result, edit.deviation)
    error = np.abs(edit.result - edit.truth)
    return np.stack([terms[name].ravel()[inside] for name in TERMS], axis=1), error.ravel()[inside].astype(np.float64)


def _fitted(samples: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Weights of the terms that predict the absolute error best, none negative."""
    weights, _ = nnls(np.concatenate([terms for terms, _ in samples]), np.concatenate([error for _, error in samples]))
    return np.asarray(weights)


def _pooled_quantile(scores: Sequence[NDArray[np.float64]], level: float) -> float:
    """Quantile over the voxels of all subjects, every subject with the same weight."""
    values = np.concatenate(scores)
    weights = np.concatenate([np.full(len(one), 1.0 / len(one)) for one in scores])
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) / len(scores)
    return float(values[order][min(int(np.searchsorted(cumulative, level)), len(values) - 1)])
