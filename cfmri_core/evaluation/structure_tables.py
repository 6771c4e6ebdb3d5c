"""Tables of the suite `structure`: asked and obtained, the response, and whether the aims were met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cfmri_core.evaluation.statistics import Interval, mean_interval
from cfmri_core.evaluation.suite import PatientResult, mean_intervals
from cfmri_core.evaluation.summary_table import Cell, SummaryTable
from cfmri_core.models.structure_editor import REG_CFT, SEG_CFT

#: Columns of the table of each kind of cases: heading and metric.
_COLUMNS = (
    ("Error of the share, %", "share_error_percent"),
    ("in points", "share_error_points"),
    ("to the true share, %", "share_to_truth_error_percent"),
    ("Own reader's error, %", "own_error_percent"),
    ("Fat area, error %", "fat_error_percent"),
    ("Breast area, change %", "breast_change_percent"),
    ("Rest (muscle, skin, chest, air), change %", "rest_change_percent"),
    ("PSNR to the truth, dB", "psnr_db"),
)
_LEFT_ALONE = (
    ("Largest change outside the breast the editor finds", "largest_change_outside_own_breast"),
    ("Largest change outside the true breast, stored units", "largest_change_outside"),
    ("Voxels changed outside the true breast, %", "changed_outside_percent"),
    ("Shift of far fat, % of the contrast", "far_fat_shift_percent"),
    ("Edits", "rounds"),
    ("Seconds", "elapsed_s"),
)
#: The arm that is the simulator's own scan of the changed anatomy.
RENDERING = "simulated truth"
#: Kinds of cases that the aims are about.
_AIMED = "20 %"


def structure_tables(results: Sequence[PatientResult]) -> list[SummaryTable]:
    """Return all tables."""
    kinds = sorted({kind for result in results for kind in result.kinds.values()}, key=lambda kind: float(kind[:-2]))
    means = {kind: mean_intervals(results, kind) for kind in kinds}
    tables = [_aims(means[_AIMED], _response(results))] if _AIMED in means else []
    for kind in kinds:
        tables.append(_table(f"share changed by {kind} up and down: what was reached", means[kind], _COLUMNS))
        tables[-1] = SummaryTable(
            tables[-1].name,
            "Mean over patients [95 % interval], as a second segmenter of another architecture, trained on other "
            "patients, sees it: its share after over its share before, against what was asked. `simulated truth`: the "
            "simulator's own scan of the changed anatomy, so what that segmenter makes of a perfect edit.",
            tables[-1].header,
            tables[-1].rows,
        )
    if _AIMED in means:
        left = _table(f"share changed by {_AIMED}: what stayed", means[_AIMED], _LEFT_ALONE)
        caption = (
            "Far fat lies 8 mm or more from all fibroglandular tissue, before and after; its mean change in percent of "
            "the contrast between fibroglandular tissue and fat. Mean over patients [95 % interval]; a shift up with "
            "more tissue and down with less cancels here: see the response table."
        )
        tables.append(SummaryTable(left.name, caption, left.header, left.rows))
    tables.append(_against_the_rendering(results, kinds))
    tables.append(_response_table(_response(results)))
    return tables


def _against_the_rendering(results: Sequence[PatientResult], kinds: Sequence[str]) -> SummaryTable:
    """Compare what the judge reads in each arm with what it reads in the simulator's scan of the asked share."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        for kind in kinds:
            cases = [arms for case, arms in result.cases.items() if result.kinds[case] == kind and RENDERING in arms]
            for arm in dict.fromkeys(arm for arms in cases for arm in arms if arm != RENDERING):
                off = [_off(arms[arm], arms[RENDERING]) for arms in cases if arm in arms]
                found.setdefault(arm, {}).setdefault(kind, []).append(100 * float(np.mean(off)))
    rows: list[list[Cell]] = [
        [arm, *(mean_interval(by_kind[kind]) if kind in by_kind else "-" for kind in kinds)]
        for arm, by_kind in sorted(found.items(), key=lambda item: np.mean(item[1].get(_AIMED, [math.inf])))
    ]
    return SummaryTable(
        "against the same segmenter's reading of the simulated truth",
        "How far the share that the scoring segmenter reads after the edit lies from the one that it reads in the "
        "simulator's scan of the changed anatomy, in percent: its errors of calibration cancel. Not among the aims: "
        "added when the floor of that segmenter was seen. Mean over patients [95 % interval].",
        ["Arm", *kinds],
        rows,
    )


def _off(arm: Mapping[str, float], rendering: Mapping[str, float]) -> float:
    return abs((1 + arm["response"]) / (1 + rendering["response"]) - 1)


def _table(name: str, means: Mapping[str, Mapping[str, Interval]], columns: Sequence[tuple[str, str]]) -> SummaryTable:
    rows: list[list[Cell]] = []
    for arm in sorted(means, key=lambda arm: _mean(means[arm], "share_error_percent")):
        cells: list[Cell] = [means[arm].get(metric) for _, metric in columns]
        rows.append([arm, *(cell if cell is not None else "-" for cell in cells)])
    return SummaryTable(name, "", ["Arm", *(heading for heading, _ in columns)], rows)


class _Response:
    """How one arm answers to what is asked, patient by patient.

    Attributes:
        slopes: Slope of obtained on asked relative change, of each patient.
        rises: Whether more was obtained whenever more was asked, of each patient.
        shifts: Slope of the shift of far fat (in percent of the contrast) on the change asked, of each patient.
    """

    def __init__(self) -> None:
        self.slopes: list[float] = []
        self.rises: list[float] = []
        self.shifts: list[float] = []

    def add(self, asked: Sequence[float], obtained: Sequence[float], shifts: Sequence[float]) -> None:
        """Take in one patient, in the order of rising changes asked for."""
        x = np.asarray(asked)
        self.slopes.append(float((x * np.asarray(obtained)).sum() / (x**2).sum()))
        self.rises.append(float(np.all(np.diff(obtained) > 0)))
        self.shifts.append(float((x * np.asarray(shifts)).sum() / (x**2).sum()))


def _response(results: Sequence[PatientResult]) -> dict[str, _Response]:
    found: dict[str, _Response] = {}
    for result in results:
        cases = sorted(result.cases, key=lambda case: result.facts[case]["change"])
        asked = [float(result.facts[case]["change"]) for case in cases]
        for arm in dict.fromkeys(arm for case in cases for arm in result.cases[case]):
            at = [number for number, case in enumerate(cases) if arm in result.cases[case]]
            metrics = [result.cases[cases[number]][arm] for number in at]
            shifts = [value.get("far_fat_shift_percent", math.nan) for value in metrics]
            if len(at) > 1:
                obtained = [value["response"] for value in metrics]
                found.setdefault(arm, _Response()).add([asked[number] for number in at], obtained, shifts)
    return found


def _response_table(responses: Mapping[str, _Response]) -> SummaryTable:
    rows: list[list[Cell]] = []
    for arm, response in responses.items():
        shift: Cell = mean_interval([value / 5 for value in response.shifts])
        rows.append([
            arm, mean_interval(response.slopes), mean_interval([100 * value for value in response.rises]),
            shift if not math.isnan(response.shifts[0]) else "-",
        ])  # fmt: skip
    return SummaryTable(
        "response",
        "Slope of obtained on asked relative change (1 is perfect); patients in whom every larger change asked gave a "
        "larger one; and by how much fat far from all fibroglandular tissue brightens when 20 % more is asked, in "
        "percent of the contrast between the tissues: the global shift that Reg-CFT is known for. Mean over patients "
        "[95 % interval].",
        ["Arm", "Slope", "Monotone, % of patients", "Far fat per +20 %, % of the contrast"],
        rows,
    )


def _aims(means: Mapping[str, Mapping[str, Interval]], responses: Mapping[str, _Response]) -> SummaryTable:
    """Judge what was declared before the run; `seg-cft` as users get it."""
    own = means[SEG_CFT]
    errors = {arm: _mean(found, "share_error_percent") for arm, found in means.items() if arm in _RIVALS}
    first = min(errors, key=lambda arm: errors[arm])
    error, fat = _mean(own, "share_error_percent"), _mean(own, "fat_error_percent")
    outside, rest = _mean(own, "largest_change_outside_own_breast"), _mean(own, "rest_change_percent")
    rows: list[list[Cell]] = [
        ["seg-cft first in the error of the share at 20 %", f"first is {first}", _met(first == SEG_CFT)],
        ["its error at 20 % at most 5 %", error, _met(error <= 5)],
        ["change outside the breast 0 (the breast that the editor finds)", outside, _met(outside == 0)],
        ["fat area within 2 % of what the asked share leaves", fat, _met(fat <= 2)],
        ["rest (with the muscle) within 2 %", rest, _met(rest <= 2)],
    ]
    for arm in (SEG_CFT, REG_CFT):
        if arm in responses:
            shift = float(np.mean(responses[arm].shifts)) / 5
            rows.append([f"global shift of {arm} per +20 %, % of the contrast", shift, "shown"])
    return SummaryTable(
        "aims",
        "Declared before the run. The labels of this package know no muscle: it is part of the rest. Outside the "
        "breast that the editor finds nothing may change; where it takes skin or muscle for breast, see the table of "
        "what stayed.",
        ["Aim", "Reached", "Met"],
        rows,
    )


#: Arms that compete: what users can get, and the baselines.
_RIVALS = (SEG_CFT, REG_CFT, "guidance", "not fine-tuned", "morphology")


def _mean(found: Mapping[str, Interval], metric: str) -> float:
    return found[metric].mean if metric in found else math.nan


def _met(is_so: bool) -> str:
    return "yes" if is_so else "**no**"
