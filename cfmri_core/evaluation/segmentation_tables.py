"""Sum up a segmentation study: tables in the form of the paper's, paired tests, share of the gap closed."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.evaluation.hierarchical_bootstrap import (
    SeededInterval,
    mean_difference,
    mean_over_patients,
    median_difference,
    seeded_interval,
    share_of_gap,
)
from cfmri_core.evaluation.segmentation_study import DIRECTIONS, Measured, Run
from cfmri_core.evaluation.statistics import PairedTest, paired_tests

#: Metric that tests and gaps are about.
PRIMARY_METRIC = "mean dice"
#: Arms whose difference is tested out of domain: first the primary comparison, then the others.
PRIMARY = ("counterfactual+classical", "classical")
SECONDARY = (
    ("counterfactual", "none"),
    ("classical", "none"),
    ("contrast-randomisation", "none"),
    ("counterfactual", "classical"),
    ("counterfactual+classical", "contrast-randomisation"),
    ("counterfactual+classical", "none"),
)
#: Dice of fat, of fibroglandular tissue and their mean: Morão et al., MIDL 2025, Table 3, by training vendors, arm and
#: vendor of the test. There: Duke-Breast-Cancer-MRI, means over slices, validation set as in-domain test set.
PAPER_DICE: Mapping[tuple[str, str, str], tuple[float, float, float]] = {
    ("both", "none", "both"): (0.929, 0.716, 0.840),
    ("ge-to-siemens", "none", "GE"): (0.949, 0.758, 0.863),
    ("ge-to-siemens", "counterfactual", "GE"): (0.950, 0.757, 0.863),
    ("ge-to-siemens", "none", "SIEMENS"): (0.860, 0.555, 0.730),
    ("ge-to-siemens", "counterfactual", "SIEMENS"): (0.889, 0.536, 0.739),
    ("siemens-to-ge", "none", "SIEMENS"): (0.866, 0.588, 0.746),
    ("siemens-to-ge", "counterfactual", "SIEMENS"): (0.863, 0.571, 0.737),
    ("siemens-to-ge", "none", "GE"): (0.886, 0.549, 0.742),
    ("siemens-to-ge", "counterfactual", "GE"): (0.896, 0.553, 0.750),
}
#: Columns of the table: heading, metric, factor, digits.
_COLUMNS = (
    ("Acc. backgr. %", "background recall", 100, 1),
    ("Acc. fat %", "fat recall", 100, 1),
    ("Acc. FGT %", "fibroglandular recall", 100, 1),
    ("Dice fat", "fat dice", 1, 3),
    ("Dice FGT", "fibroglandular dice", 1, 3),
    ("Mean Dice", "mean dice", 1, 3),
    ("HD95 fat mm", "fat hd95_mm", 1, 1),
    ("HD95 FGT mm", "fibroglandular hd95_mm", 1, 1),
    ("FGT volume error %", "fibroglandular volume_error_percent", 1, 1),
)


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        direction: Direction of training.
        arm: Augmentation.
        test: Vendor of the test scans, or ``both``.
        metrics: Metric to mean over seeds and patients.
    """

    direction: str
    arm: str
    test: str
    metrics: Mapping[str, SeededInterval]


@dataclass(frozen=True)
class Effect:
    """A paired comparison of two arms on the same patients.

    Attributes:
        test: Wilcoxon test over patients, each averaged over seeds; Holm within its family.
        median_difference: With the bootstrap interval over seeds and patients.
        mean_difference: The same for the mean.
    """

    test: PairedTest
    median_difference: SeededInterval
    mean_difference: SeededInterval


class FinishedStudy:
    """The finished runs as arrays over seeds and patients."""

    def __init__(self, runs: Mapping[Run, Measured]) -> None:
        self.runs = runs
        self.arms = sorted({run.arm for run in runs}, key=_arm_order)
        self.patients = sorted({patient for measured in runs.values() for patient in measured})

    def seeds(self, *of: tuple[str, str]) -> list[int]:
        """Return the seeds that every direction and arm named has finished."""
        finished = [{run.seed for run in self.runs if (run.direction, run.arm) == pair} for pair in of]
        return sorted(set.intersection(*finished)) if finished else []

    def values(self, direction: str, arm: str, test: str, metric: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return values, shape ``(seeds, patients)``, NaN where there is none; ``both`` averages the vendors."""
        rows = [self.runs[Run(direction, arm, seed)] for seed in seeds]
        return np.array([[_value(row.get(patient, {}), test, metric) for patient in self.patients] for row in rows])

    def tests(self) -> Iterable[Iterable[str]]:
        """Return the tests of each patient and run."""
        return (tests for measured in self.runs.values() for tests in measured.values())

    def tests_of(self, direction: str) -> list[str]:
        """Return the test vendors of a direction, the training vendor first."""
        trained = DIRECTIONS[direction]
        others = [name for name in DIRECTIONS["both"] if name not in trained]
        return [*trained, *others] if others else [*trained, "both"]


def table(study: FinishedStudy) -> list[Cell]:
    """Return every direction, arm and test vendor that has a finished run."""
    cells = []
    for direction in DIRECTIONS:
        for arm in study.arms:
            seeds = study.seeds((direction, arm))
            for test in study.tests_of(direction) if seeds else ():
                metrics = {
                    metric: seeded_interval(mean_over_patients, study.values(direction, arm, test, metric, seeds))
                    for _, metric, _, _ in _COLUMNS
                }
                cells.append(Cell(direction, arm, test, metrics))
    return cells


def by_model(study: FinishedStudy) -> list[Cell]:
    """Return how arms trained on one vendor do on each scanner model of the other."""
    cells = []
    for direction in ("ge-to-siemens", "siemens-to-ge"):
        outside = study.tests_of(direction)[1]
        models = sorted({test for tests in study.tests() for test in tests if test.startswith(f"{outside} ")})
        for test, arm in itertools.product(models, study.arms):
            seeds = study.seeds((direction, arm))
            if seeds:
                found = seeded_interval(mean_over_patients, study.values(direction, arm, test, PRIMARY_METRIC, seeds))
                cells.append(Cell(direction, arm, test, {PRIMARY_METRIC: found}))
    return cells


def effects(study: FinishedStudy, pairs: Sequence[tuple[str, str]], *, in_domain: bool = False) -> dict[str, Effect]:
    """Compare pairs of arms in both directions as one family of tests; pairs without runs are left out."""
    arrays: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for direction in ("ge-to-siemens", "siemens-to-ge"):
        inside, outside = study.tests_of(direction)
        for first, second in pairs:
            seeds = study.seeds((direction, first), (direction, second))
            if seeds:
                test = inside if in_domain else outside
                one, other = (study.values(direction, arm, test, PRIMARY_METRIC, seeds) for arm in (first, second))
                arrays[f"{direction}, test {test}: {first} - {second}"] = one, other
    tests = paired_tests({name: (list(a.mean(axis=0)), list(b.mean(axis=0))) for name, (a, b) in arrays.items()})
    return {
        name: Effect(tests[name], seeded_interval(median_difference, a, b), seeded_interval(mean_difference, a, b))
        for name, (a, b) in arrays.items()
    }


def gaps_closed(study: FinishedStudy) -> dict[str, SeededInterval]:
    """Return, by direction and arm, the share of the way from one vendor to both (arm none) in out-of-domain Dice."""
    shares = {}
    for direction in ("ge-to-siemens", "siemens-to-ge"):
        test = study.tests_of(direction)[1]
        for arm in study.arms:
            seeds = study.seeds((direction, arm), (direction, "none"), ("both", "none"))
            if arm != "none" and seeds:
                compared = ((direction, arm), (direction, "none"), ("both", "none"))
                arrays = [study.values(*pair, test, PRIMARY_METRIC, seeds) for pair in compared]
                shares[f"{direction}: {arm}"] = seeded_interval(share_of_gap, *arrays)
    return shares


def summary(study: FinishedStudy) -> dict[str, Any]:
    """Return everything for the result file."""
    return {
        "table": table(study),
        "primary_comparisons": effects(study, [PRIMARY]),
        "secondary_comparisons": effects(study, SECONDARY),
        "in_domain_differences": effects(study, [(PRIMARY[0], "none"), PRIMARY], in_domain=True),
        "gap_closed": gaps_closed(study),
        "out_of_domain_by_model": by_model(study),
        "n_patients": len(study.patients),
        "runs": [vars(run) for run in study.runs],
    }


def markdown(study: FinishedStudy) -> str:
    """Return the tables as Markdown, the paper's figures beside ours."""
    headings = ["Training", "Test", "Arm", *(column[0] for column in _COLUMNS), "Paper: Dice fat / FGT / mean"]
    rows = [_row(cell) for cell in table(study)]
    lines = [*_markdown_table(headings, rows), "", _CAUTION, ""]
    for title, found in (
        ("Primary comparison, out of domain, mean Dice", effects(study, [PRIMARY])),
        ("Other comparisons, out of domain, mean Dice", effects(study, SECONDARY)),
        ("In domain, mean Dice", effects(study, [(PRIMARY[0], "none"), PRIMARY], in_domain=True)),
    ):
        if found:
            header = ["Comparison", "Median difference", "Mean difference", "p (Wilcoxon)", "p (Holm)", "Patients"]
            body = [
                [name, _interval(e.median_difference, 1, 4), _interval(e.mean_difference, 1, 4), f"{e.test.p:.2g}",
                 f"{e.test.p_holm:.2g}", str(e.test.patients)]
                for name, e in found.items()
            ]  # fmt: skip
            lines += [f"### {title}", "", *_markdown_table(header, body), ""]
    gaps = [[name, _interval(share, 100, 0)] for name, share in gaps_closed(study).items()]
    if gaps:
        lines += ["### Share of the gap to both-vendor training closed, %", ""]
        lines += [*_markdown_table(["Direction and arm", "Share"], gaps), ""]
    return "\n".join([*lines, *_model_lines(study)])


def _model_lines(study: FinishedStudy) -> list[str]:
    cells = {(cell.test, cell.arm): cell.metrics[PRIMARY_METRIC] for cell in by_model(study)}
    if not cells:
        return []
    tests, arms = dict.fromkeys(test for test, _ in cells), dict.fromkeys(arm for _, arm in cells)
    rows = []
    for test in tests:
        found = [cells.get((test, arm)) for arm in arms]
        patients = max(cell.patients for cell in found if cell)
        rows.append([test, str(patients), *(_interval(cell, 1, 3) if cell else "" for cell in found)])
    return [
        "### Out of domain by scanner model, mean Dice",
        "",
        *_markdown_table(["Test", "Patients", *arms], rows),
        "",
    ]


def cases_csv(study: FinishedStudy) -> str:
    """Return every figure of every patient and run as CSV."""
    stream = io.StringIO()
    names = [column[1] for column in _COLUMNS]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["direction", "arm", "seed", "patient", "test", *names])
    for run, measured in study.runs.items():
        for patient, vendors in measured.items():
            for test, metrics in vendors.items():
                writer.writerow([run.direction, run.arm, run.seed, patient, test, *(metrics.get(n) for n in names)])
    return stream.getvalue()


_CAUTION = (
    "Means over seeds and patients with 95 % intervals (bootstrap over seeds and patients). Every training set has the "
    "same number of subjects and every arm the same number of optimiser steps. The paper's figures are means over "
    "slices of real patients with another network, so only the direction of a difference can be compared, not its size."
)


def _row(cell: Cell) -> list[str]:
    paper = PAPER_DICE.get((cell.direction, cell.arm, cell.test))
    figures = [_interval(cell.metrics[metric], factor, digits) for _, metric, factor, digits in _COLUMNS]
    trained = " + ".join(DIRECTIONS[cell.direction])
    return [trained, cell.test, cell.arm, *figures, " / ".join(f"{value:.3f}" for value in paper) if paper else ""]


def _interval(found: SeededInterval, factor: float, digits: int) -> str:
    if not np.isfinite(found.value):
        return "\N{EN DASH}"
    mean = f"{factor * found.value:.{digits}f}"
    limits = f" [{factor * found.low:.{digits}f}, {factor * found.high:.{digits}f}]"
    return mean + limits if np.isfinite(found.low) else mean


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _value(vendors: Mapping[str, Mapping[str, float]], test: str, metric: str) -> float:
    tests = DIRECTIONS["both"] if test == "both" else (test,)
    chosen = [vendors[name] for name in tests if name in vendors]
    values = [np.nan if metrics.get(metric) is None else float(metrics[metric]) for metrics in chosen]
    return float(np.mean(values)) if values else np.nan


def _arm_order(arm: str) -> tuple[int, str]:
    order = ("none", "classical", "contrast-randomisation", "counterfactual", "counterfactual+classical")
    return (order.index(arm) if arm in order else len(order)), arm
