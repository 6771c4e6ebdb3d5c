"""Sum up predictions of acquisition parameters over patients: accuracy, error, calibration, and where they come from.

Scanner model, options, echo and repetition time are almost one variable, so that a predictor can look
excellent by reading only the vendor. Errors are therefore also given per manufacturer and within the
cells of scanner, field strength and options.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cfmri_core.acquisition import PARAMETER_BY_NAME
from cfmri_core.evaluation.statistics import Interval, mean_interval
from cfmri_core.evaluation.suite import PatientResult
from cfmri_core.evaluation.summary_table import Cell, SummaryTable
from cfmri_core.models.conditioning import CATEGORICAL, CONTINUOUS

#: Accuracy (a share) and mean squared error (in the unit's square): Morão et al., MIDL 2025, Table 1. Single slices of
#: the test patients of Duke-Breast-Cancer-MRI.
PUBLISHED: Mapping[str, float] = {
    "manufacturer_model": 0.989,
    "field_strength_t": 0.992,
    "scan_options": 0.999,
    "flip_angle_deg": 0.080,
    "slice_thickness_mm": 0.133,
    "echo_time_ms": 0.005,
    "repetition_time_ms": 0.046,
}
#: Bins of the calibration error.
BINS = 10
#: A cell with fewer volumes says nothing about errors within it.
LEAST_VOLUMES = 3
#: Case of a patient's own scan (the others are its paired renderings), and both kinds of cases.
SCAN = "scan"
SCANS, RENDERINGS = "scans", "paired renderings"


@dataclass(frozen=True)
class Prediction:
    """One volume: what was true and what was predicted.

    Attributes:
        patient: Whose it is.
        kind: ``scans``, or ``paired renderings`` under other parameters.
        truth: Known parameters.
        predicted: Per parameter ``value`` with ``confidence`` (probability of the value) or ``interval``.
    """

    patient: str
    kind: str
    truth: Mapping[str, Any]
    predicted: Mapping[str, Mapping[str, Any]]

    @property
    def cell(self) -> str:
        """Scanner, field strength and options."""
        names = ("manufacturer", "manufacturer_model", "field_strength_t", "scan_options")
        manufacturer, model, field, options = (self.truth.get(name, "unknown") for name in names)
        return f"{manufacturer} {model}, {field} T, {options}"

    def covers(self, name: str) -> bool:
        """Whether a parameter is both known and predicted."""
        return name in self.truth and name in self.predicted

    def error(self, name: str) -> float:
        """Return 1 or 0 for a right or wrong category, the squared error of a quantity."""
        value, true_value = self.predicted[name]["value"], self.truth[name]
        return float(value == true_value) if name in CATEGORICAL else (float(value) - float(true_value)) ** 2


def prediction_tables(results: Sequence[PatientResult]) -> list[SummaryTable]:
    """Return every table of the suite.

    Args:
        results: Patients whose facts hold ``truth`` and ``predicted`` per case.
    """
    predictions = [
        Prediction(result.patient, kind_of(case), fact["truth"], fact["predicted"])
        for result in results
        for case, fact in result.facts.items()
    ]
    return [
        published_table(predictions, results),
        manufacturer_table(predictions),
        cell_table(predictions),
        within_cell_table(predictions),
        calibration_table(predictions),
    ]


def kind_of(case: str) -> str:
    """Return the kind of a case."""
    return SCANS if case == SCAN else RENDERINGS


def published_table(predictions: Sequence[Prediction], results: Sequence[PatientResult]) -> SummaryTable:
    """Accuracy and error per parameter, whole volumes and single slices, beside the published figures."""
    rows: list[list[Cell]] = []
    for name in (*CATEGORICAL, *CONTINUOUS):
        per_slice = [_slice_value(result, name) for result in results]
        columns = [_mean_of(_of(predictions, kind=kind), name) for kind in (SCANS, RENDERINGS)]
        rows.append([*_title(name), *columns, mean_interval(per_slice), PUBLISHED[name]])
    return SummaryTable(
        "against the published predictor",
        "Mean over patients [95 % interval] of whole volumes and of single slices. The published figures are of single "
        "slices of Duke patients: other images, so that the columns show the same quantity but not the same task.",
        ["parameter", "figure", SCANS, RENDERINGS, "single slices of scans", "Morão et al., Table 1"],
        rows,
    )


def manufacturer_table(predictions: Sequence[Prediction]) -> SummaryTable:
    """Accuracy and error per parameter and manufacturer, scans and renderings apart."""
    makers = sorted({str(one.truth.get("manufacturer", "unknown")) for one in predictions})
    groups = {
        f"{maker}, {kind}": [one for one in _of(predictions, kind=kind) if one.truth.get("manufacturer") == maker]
        for maker in makers
        for kind in (SCANS, RENDERINGS)
    }
    rows: list[list[Cell]] = [
        [*_title(name), *(_mean_of(group, name) for group in groups.values())] for name in (*CATEGORICAL, *CONTINUOUS)
    ]
    return SummaryTable(
        "per manufacturer", "Mean over patients [95 % interval].", ["parameter", "figure", *groups], rows
    )


def cell_table(predictions: Sequence[Prediction]) -> SummaryTable:
    """Accuracy and error per cell, scans and renderings together."""
    names = (*CATEGORICAL, *CONTINUOUS)
    rows: list[list[Cell]] = []
    for cell, group in _cells(predictions).items():
        rows.append([cell, len(group), *(_mean_of(group, name).mean for name in names)])
    header = ["cell", "volumes", *(" ".join(_title(name)) for name in names)]
    return SummaryTable("per cell", "Means over patients; scans and paired renderings together.", header, rows)


def within_cell_table(predictions: Sequence[Prediction]) -> SummaryTable:
    """How much of the spread *within* cells is predicted: 0 for a predictor that reads only the scanner."""
    cells = {cell: group for cell, group in _cells(predictions).items() if len(group) >= LEAST_VOLUMES}
    rows: list[list[Cell]] = []
    for name in CONTINUOUS:
        known = [[one for one in group if one.covers(name)] for group in cells.values()]
        known = [group for group in known if len(group) >= LEAST_VOLUMES]
        spread = [value for group in known for value in _deviations([float(one.truth[name]) for one in group])]
        errors = [one.error(name) for group in known for one in group]
        variance, error = _mean(square**2 for square in spread), _mean(errors)
        explained = 1 - error / variance if variance > 0 else math.nan
        rows.append([name, _unit(name), len(errors), variance, error, explained])
    return SummaryTable(
        "within cells",
        f"Cells of scanner, field strength and options with {LEAST_VOLUMES} volumes or more, scans and paired "
        "renderings together. Predicting the mean of the cell would explain 0, the truth 1.",
        ["parameter", "unit", "volumes", "variance within cells", "mean squared error", "share explained"],
        rows,
    )


def calibration_table(predictions: Sequence[Prediction]) -> SummaryTable:
    """Expected calibration error of the probabilities, coverage of the 90 % intervals."""
    rows: list[list[Cell]] = []
    for name in CATEGORICAL:
        errors = []
        for kind in (SCANS, RENDERINGS):
            group = [one for one in _of(predictions, kind=kind) if one.covers(name)]
            hits = [one.error(name) for one in group]
            errors.append(expected_calibration_error([one.predicted[name]["confidence"] for one in group], hits))
        rows.append([name, "expected calibration error", *errors])
    for name in CONTINUOUS:
        shares = []
        for kind in (SCANS, RENDERINGS):
            group = [one for one in _of(predictions, kind=kind) if one.covers(name)]
            shares.append(_mean(float(_inside(one, name)) for one in group if one.predicted[name].get("interval")))
        rows.append([name, "coverage of the 90 % interval", *shares])
    return SummaryTable(
        "calibration", f"Whole volumes; {BINS} bins of equal width.", ["parameter", "figure", SCANS, RENDERINGS], rows
    )


def expected_calibration_error(confidences: Sequence[float], hits: Sequence[float], bins: int = BINS) -> float:
    """Return the mean distance between confidence and accuracy over bins of confidence, NaN without volumes.

    Args:
        confidences: Probability of the predicted category, per volume.
        hits: 1 where it was right, else 0.
        bins: Bins of equal width over [0, 1].

    Source: Guo et al., ICML 2017, eq. 3.
    """
    if not confidences:
        return math.nan
    confidence, hit = np.asarray(confidences, dtype=float), np.asarray(hits, dtype=float)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(float((confidence - hit)[index == one].sum())) for one in range(bins)]
    return sum(gaps) / len(confidence)


def _of(predictions: Iterable[Prediction], kind: str) -> list[Prediction]:
    return [one for one in predictions if one.kind == kind]


def _cells(predictions: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    cells: dict[str, list[Prediction]] = {}
    for one in sorted(predictions, key=lambda one: one.cell):
        cells.setdefault(one.cell, []).append(one)
    return cells


def _mean_of(predictions: Iterable[Prediction], name: str) -> Interval:
    """Mean over patients of each patient's mean."""
    by_patient: dict[str, list[float]] = {}
    for one in predictions:
        if one.covers(name):
            by_patient.setdefault(one.patient, []).append(one.error(name))
    return mean_interval([_mean(values) for values in by_patient.values()])


def _slice_value(result: PatientResult, name: str) -> float:
    figure = "accuracy" if name in CATEGORICAL else "squared error"
    value = result.cases.get(SCAN, {}).get("predictor", {}).get(f"{name} {figure} per slice")
    return math.nan if value is None else value


def _inside(prediction: Prediction, name: str) -> bool:
    low, high = prediction.predicted[name]["interval"]
    return bool(low <= float(prediction.truth[name]) <= high)


def _deviations(values: Sequence[float]) -> list[float]:
    mean = _mean(values)
    return [value - mean for value in values]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def _unit(name: str) -> str:
    return PARAMETER_BY_NAME[name].unit


def _title(name: str) -> tuple[str, str]:
    return name, "accuracy" if name in CATEGORICAL else f"mean squared error, {_unit(name)}²"
