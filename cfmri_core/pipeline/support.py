"""Are the acquisition parameters of the source, and those asked for, inside what a model was trained on?

In reality scanner model, scan options, echo and repetition time are almost one variable: a GE model with
a Siemens echo time has every value in range and still never occurred. So parameters are judged together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.io.json_text import number
from cfmri_core.models.companion import checked_companion, read_companion, write_companion
from cfmri_core.models.conditioning import CATEGORICAL, CONTINUOUS, Category, ConditionSpec

#: A continuous value may leave the trained range by this share of its width before a warning.
TOLERANCE = 0.02
#: From the best to the worst.
LEVELS = ("inside", "marginal", "outside")
_NAMES = (*CATEGORICAL, *CONTINUOUS)
#: File beside the weights of a model.
FILE_NAME = "support.json"

#: Share of normally distributed training subjects inside, and how many times further "marginal" reaches.
_INSIDE_SHARE = 0.99
_MARGINAL_FACTOR = 1.5
#: Least standard deviation within a cell, in half-ranges of the training set: spreads of a few hundredths of a
#: millisecond, as one scanner has them, say nothing about what a network can tell apart.
_SPREAD_FLOOR = 0.2
#: Least half-range, as a share of the centre: a constant parameter would make every other value infinitely far.
_HALF_RANGE_FLOOR = 0.05
#: A mean and covariance of fewer subjects would be close to single patients; only their number is kept.
_LEAST_SUBJECTS = 5
#: Weight of the covariance within all cells beside a cell's own, in subjects.
_POOLED_WEIGHT = 5.0


@dataclass(frozen=True)
class Verdict:
    """A judgement with its reasons.

    Attributes:
        verdict: One of `LEVELS`.
        reasons: Why, in words; empty where there is nothing to say.
    """

    verdict: str = "inside"
    reasons: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-ready values."""
        return {"verdict": self.verdict, "reasons": list(self.reasons)}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts with the reasons of all, each once; inside if there is none."""
    given = list(verdicts)
    reasons = dict.fromkeys(reason for verdict in given for reason in verdict.reasons)
    return Verdict(max((verdict.verdict for verdict in given), key=LEVELS.index, default=LEVELS[0]), tuple(reasons))


def graded(ratio: float) -> str:
    """Return the level of a quantity that is 1 at the end of "inside"."""
    if ratio <= 1:
        return "inside"
    return "marginal" if ratio <= _MARGINAL_FACTOR else "outside"


@dataclass(frozen=True)
class Cell:
    """One combination of scanner model, field strength and scan options, in sum.

    Attributes:
        categories: Its values, in the order of `CATEGORICAL`.
        subjects: Training subjects.
        mean: Of the continuous parameters, in half-ranges, in the order of `CONTINUOUS`; ``None`` where the
            subjects are too few to be summed up.
        covariance: Likewise, in squared half-ranges.
    """

    categories: tuple[Category, ...]
    subjects: int
    mean: tuple[float, ...] | None
    covariance: tuple[tuple[float, ...], ...] | None

    @property
    def title(self) -> str:
        """The combination in words."""
        return ", ".join(
            f"{value:g} T" if isinstance(value, float) else str(value).replace("\\", "+") for value in self.categories
        )


@dataclass(frozen=True)
class TrainingSupport:
    """Which acquisition parameters occurred together in training: summary statistics, no patients.

    Attributes:
        scales: Centre and half-range of each continuous parameter, in its unit.
        cells: Combinations of the categorical parameters that occurred.
        whole: All subjects together, for cells with too few subjects of their own; ``None`` where there
            are too few altogether.
    """

    scales: Mapping[str, tuple[float, float]]
    cells: tuple[Cell, ...]
    whole: Cell | None

    def judge(self, parameters: AcquisitionParameters, role: str = "source") -> Verdict:
        """Judge parameters.

        A combination of categories that never occurred is outside. Within a combination the continuous
        parameters are judged by their Mahalanobis distance; up to 99 % of normally distributed subjects
        are inside, up to one and a half times that distance is marginal. What is unknown is left out, and
        the verdict is then marginal at best.

        Args:
            parameters: What to judge.
            role: What they are, for the reasons: "source" or "requested".
        """
        if not self.cells:
            return Verdict("marginal", ("no training subject had every parameter, so that none can be judged.",))
        unknown = [name for name in _NAMES if getattr(parameters, name) is None]
        cells = [cell for cell in self.cells if _fits(cell, parameters)]
        if not cells:
            return Verdict("outside", (self._no_cell(parameters, role),))
        judged = [self._within(cell, parameters, role) for cell in cells]
        best = min(judged, key=lambda verdict: LEVELS.index(verdict.verdict))
        if not unknown:
            return best
        reason = f"the {role} values of {', '.join(unknown)} are unknown, so that support is judged without them."
        return worst([best, Verdict("marginal", (reason,))])

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON-ready values."""
        return {
            "scales": {name: list(values) for name, values in self.scales.items()},
            "cells": [_cell_to_json(cell) for cell in self.cells],
            "whole": _cell_to_json(self.whole) if self.whole else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingSupport:
        """Build from what `to_json` returned."""
        return cls(
            {name: (number(centre), number(half, 0)) for name, (centre, half) in values["scales"].items()},
            tuple(_cell_from_json(cell) for cell in values["cells"]),
            _cell_from_json(values["whole"]) if values["whole"] else None,
        )

    def _no_cell(self, parameters: AcquisitionParameters, role: str) -> str:
        for index, name in enumerate(CATEGORICAL):
            value = getattr(parameters, name)
            if value is not None and all(cell.categories[index] != value for cell in self.cells):
                return f"no training subject had the {role} {name} '{value}'."
        asked = ", ".join(str(getattr(parameters, name)).replace("\\", "+") for name in CATEGORICAL)
        return f"no training subject had the {role} combination {asked} of {', '.join(CATEGORICAL)}."

    def _within(self, cell: Cell, parameters: AcquisitionParameters, role: str) -> Verdict:
        if cell.mean is not None:
            return self._distance_verdict(cell, parameters, role)
        reason = f"too few training subjects ({cell.subjects}) had the {role} combination {cell.title}."
        few = Verdict("marginal", (reason,))
        return worst([few, self._distance_verdict(self.whole, parameters, role)]) if self.whole else few

    def _distance_verdict(self, cell: Cell, parameters: AcquisitionParameters, role: str) -> Verdict:
        known = [index for index, name in enumerate(CONTINUOUS) if getattr(parameters, name) is not None]
        if not known:
            return Verdict()
        mean, covariance = np.array(cell.mean)[known], np.array(cell.covariance)[np.ix_(known, known)]
        names = [CONTINUOUS[index] for index in known]
        offset = self._in_half_ranges(parameters, names) - mean
        distance = float(np.sqrt(offset @ np.linalg.solve(covariance, offset)))
        level = graded(distance / float(np.sqrt(chi2.ppf(_INSIDE_SHARE, len(known)))))
        if level == LEVELS[0]:
            return Verdict()
        farthest = int(np.argmax(np.abs(offset) / np.sqrt(np.diag(covariance))))
        name = names[farthest]
        centre, half = self.scales[name]
        unit = PARAMETER_BY_NAME[name].unit
        where = f"of the {cell.subjects} training subjects" + (f" with {cell.title}" if cell.title else "")
        return Verdict(level, (
            f"the {role} parameters lie {distance:.1f} standard deviations from the mean {where}, above all "
            f"{name}: {getattr(parameters, name):g} {unit}, there {centre + half * mean[farthest]:.3g} {unit}.",
        ))  # fmt: skip

    def _in_half_ranges(self, parameters: AcquisitionParameters, names: Sequence[str]) -> NDArray[np.float64]:
        return np.array([(getattr(parameters, name) - self.scales[name][0]) / self.scales[name][1] for name in names])


def fit_training_support(parameters: Sequence[AcquisitionParameters]) -> TrainingSupport:
    """Sum up which parameters occurred together.

    Args:
        parameters: Of the training subjects, one each; those with an unknown parameter are left out.

    Returns:
        Per combination of categories, the number of subjects and, from 5 subjects on, mean and covariance.
        A cell's covariance is averaged with that within all cells, which weighs as much as 5 subjects,
        and widened by a floor of a fifth of the half-range of the training set.
    """
    complete = [item for item in parameters if all(getattr(item, name) is not None for name in _NAMES)]
    raw = np.array([[getattr(item, name) for name in CONTINUOUS] for item in complete], dtype=float).reshape(-1, 4)
    scales = {name: _scale(raw[:, index]) for index, name in enumerate(CONTINUOUS)}
    centre, half = np.array(list(scales.values())).T
    values = (raw - centre) / half
    groups: dict[tuple[Category, ...], list[int]] = {}
    for index, item in enumerate(complete):
        groups.setdefault(tuple(getattr(item, name) for name in CATEGORICAL), []).append(index)
    residuals = [values[members] - values[members].mean(axis=0) for members in groups.values()]
    pooled = sum(r.T @ r for r in residuals) / max(1, len(values) - len(groups))
    cells = [_cell(categories, values[members], pooled) for categories, members in sorted(groups.items(), key=str)]
    whole = _cell((), values, np.zeros((4, 4)))
    return TrainingSupport(scales, tuple(cells), whole if whole.mean else None)


def write_training_support(folder: Path, support: TrainingSupport, sha256: str) -> Path:
    """Write the statistics beside a model's weights; see `write_companion`."""
    return write_companion(folder, FILE_NAME, sha256, {"acquisition": support.to_json()})


def read_training_support(folder: Path, sha256: str) -> TrainingSupport | None:
    """Read the statistics of a model, ``None`` where it has none.

    Raises:
        CheckpointError: They are damaged or belong to other weights.
    """
    values = read_companion(folder, FILE_NAME, sha256)
    if values is None:
        return None
    with checked_companion(Path(folder) / FILE_NAME):
        return TrainingSupport.from_json(values["acquisition"])


def support_warnings(
    factual: AcquisitionParameters, requested: AcquisitionParameters, spec: ConditionSpec
) -> list[str]:
    """Say, in words, which single parameter lies outside the range a model was trained on.

    Each parameter is judged alone, which is all that can be done for a model without
    `TrainingSupport`; an empty list means inside.
    """
    warnings = []
    for name in spec.blocks:
        source, target = getattr(factual, name), getattr(requested, name)
        warnings += _outside(name, "source", source, spec)
        if target != source:
            warnings += _outside(name, "requested", target, spec)
    return warnings


def range_verdict(parameters: AcquisitionParameters, spec: ConditionSpec, role: str) -> Verdict:
    """Judge parameters one by one, for a model without `TrainingSupport`; marginal at best if one is unknown."""
    values = {name: getattr(parameters, name) for name in spec.blocks}
    return worst(
        Verdict("marginal" if value is None else "outside", tuple(reasons))
        for name, value in values.items()
        if (reasons := _outside(name, role, value, spec))
    )


def _fits(cell: Cell, parameters: AcquisitionParameters) -> bool:
    asked = [getattr(parameters, name) for name in CATEGORICAL]
    return all(value is None or value == own for value, own in zip(asked, cell.categories, strict=True))


def _scale(values: NDArray[np.float64]) -> tuple[float, float]:
    """Centre and half-range, between the 1 and 99 % quantiles: one odd subject does not widen it."""
    if not len(values):
        return 0.0, 1.0
    low, high = np.quantile(values, [0.01, 0.99])
    centre = float(low + high) / 2
    return centre, max(float(high - low) / 2, _HALF_RANGE_FLOOR * abs(centre))


def _cell(categories: tuple[Category, ...], values: NDArray[np.float64], pooled: NDArray[np.float64]) -> Cell:
    subjects = len(values)
    if subjects < _LEAST_SUBJECTS:
        return Cell(categories, subjects, None, None)
    mean = values.mean(axis=0)
    scatter = (values - mean).T @ (values - mean)
    weight = _POOLED_WEIGHT if categories else 0.0
    covariance = (scatter + weight * pooled) / (subjects + weight) + _SPREAD_FLOOR**2 * np.eye(4)
    return Cell(categories, subjects, _rounded(mean), tuple(_rounded(row) for row in covariance))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _cell_to_json(cell: Cell) -> dict[str, Any]:
    return {
        "categories": list(cell.categories),
        "subjects": cell.subjects,
        "mean": cell.mean,
        "covariance": cell.covariance,
    }


def _cell_from_json(values: Mapping[str, Any]) -> Cell:
    mean, covariance = values["mean"], values["covariance"]
    return Cell(
        tuple(values["categories"]),
        int(number(values["subjects"], 0)),
        None if mean is None else tuple(number(value) for value in mean),
        None if covariance is None else tuple(tuple(number(value) for value in row) for row in covariance),
    )


def _outside(name: str, role: str, value: str | float | None, spec: ConditionSpec) -> list[str]:
    if value is None:
        return [f"{name}: the {role} value is unknown; the model treats it as unconditioned."]
    if name in spec.categories:
        choices = spec.categories[name]
        if value in choices:
            return []
        accepted = ", ".join(str(choice) for choice in choices)
        return [f"{name}: the {role} value '{value}' lies outside the training support ({accepted})."]
    low, high = spec.ranges[name]
    margin = TOLERANCE * (high - low)
    number = float(value)
    if low - margin <= number <= high + margin:
        return []
    unit = PARAMETER_BY_NAME[name].unit
    return [f"{name}: the {role} value {number:g} {unit} lies outside the training support {low:g} to {high:g} {unit}."]
