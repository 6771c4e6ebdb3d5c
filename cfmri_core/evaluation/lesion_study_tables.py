"""Sum up a study of inserted lesions: the arms, what insertion gains over classical augmentation, and each seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.evaluation.hierarchical_bootstrap import (
    SeededInterval,
    mean_difference,
    mean_over_patients,
    median_difference,
    seeded_interval,
)
from cfmri_core.evaluation.lesion_study import DICE, FALSE_POSITIVES, FOUND, FinishedRun, LesionRun
from cfmri_core.evaluation.markdown import interval_text, p_text
from cfmri_core.evaluation.segmentation_tables import Effect
from cfmri_core.evaluation.statistics import paired_tests
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.io.json_text import plain

#: Arms in the order of the tables; see `cfmri_core.training.lesion_arms`.
ARMS = ("none", "classical", "inserted", "inserted+classical")
#: Arms whose Dice is compared: first the primary comparison, then the others, one family of tests.
PRIMARY = ("inserted+classical", "classical")
SECONDARY = (
    ("inserted", "none"),
    ("classical", "none"),
    ("inserted", "classical"),
    ("inserted+classical", "inserted"),
    ("inserted+classical", "none"),
)
#: Columns: heading, metric, digits.
_COLUMNS = (
    ("Lesion Dice", DICE, 3),
    ("Lesions found, share", FOUND, 3),
    ("False positives per patient", FALSE_POSITIVES, 2),
)


class FinishedLesionStudy:
    """The finished runs as arrays over seeds and patients."""

    def __init__(self, runs: Mapping[LesionRun, FinishedRun]) -> None:
        self.runs = runs
        found = {run.arm for run in runs}
        self.arms = [arm for arm in ARMS if arm in found]
        self.patients = sorted({patient for run in runs.values() for patient in run.patients})

    def seeds(self, *arms: str) -> list[int]:
        """Return the seeds that every arm named has finished."""
        finished = [{run.seed for run in self.runs if run.arm == arm} for arm in arms]
        return sorted(set.intersection(*finished)) if finished else []

    def values(self, arm: str, metric: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return values, shape ``(seeds, patients)``; NaN where there is none."""
        rows = [self.runs[LesionRun(arm, seed)].patients for seed in seeds]
        found = [[row.get(patient, {}).get(metric) for patient in self.patients] for row in rows]
        return np.array([[np.nan if value is None else value for value in row] for row in found], dtype=np.float64)


def effects(
    study: FinishedLesionStudy, pairs: Sequence[tuple[str, str]], metric: str = DICE
) -> dict[str, Effect]:  # fmt: skip
    """Compare pairs of arms as one family of tests over patients; pairs without runs are left out."""
    arrays = {}
    for first, second in pairs:
        seeds = study.seeds(first, second)
        if seeds:
            one, other = (study.values(arm, metric, seeds) for arm in (first, second))
            arrays[f"{first} - {second}"] = one, other
    tests = paired_tests({name: (list(a.mean(axis=0)), list(b.mean(axis=0))) for name, (a, b) in arrays.items()})
    return {
        name: Effect(tests[name], seeded_interval(median_difference, a, b), seeded_interval(mean_difference, a, b))
        for name, (a, b) in arrays.items()
    }


def arm_means(study: FinishedLesionStudy) -> dict[str, dict[str, SeededInterval]]:
    """Return arm to metric to mean over seeds and patients."""
    return {
        arm: {
            metric: seeded_interval(mean_over_patients, study.values(arm, metric, study.seeds(arm)))
            for _, metric, _ in _COLUMNS
        }
        for arm in study.arms
    }


def summary(study: FinishedLesionStudy) -> dict[str, Any]:
    """Return everything for the result file."""
    compared = {
        "primary": effects(study, [PRIMARY]),
        "secondary": effects(study, SECONDARY),
        **{metric: effects(study, [PRIMARY], metric) for metric in (FOUND, FALSE_POSITIVES)},
    }
    means = arm_means(study)
    return {
        "arms": means,
        "comparisons": compared,
        "tables": [_arms_table(study, means), _effects_table(compared), *_seeds_tables(study)],
        "n_patients": len(study.patients),
        "runs": [{**vars(run), **vars(finished)} for run, finished in study.runs.items()],
    }


def _arms_table(study: FinishedLesionStudy, means: Mapping[str, Mapping[str, SeededInterval]]) -> SummaryTable:
    rows = []
    for arm, metrics in means.items():
        runs = [finished for run, finished in study.runs.items() if run.arm == arm]
        figures = [_text(metrics[metric], digits) for _, metric, digits in _COLUMNS]
        rows.append([arm, *figures, _mean([len(run.real) for run in runs]), _mean([run.inserted for run in runs])])
    skipped = [finished.skipped for finished in study.runs.values() if finished.inserted or finished.skipped]
    left_out = f" Insertions of a training that could not be made: {_mean(skipped)}." if skipped else ""
    header = ["Arm", *(column[0] for column in _COLUMNS), "Real lesions", "Inserted lesions"]
    return SummaryTable("Lesion segmenters trained with few real lesions", _CAUTION + left_out, header, rows)


def _effects_table(compared: Mapping[str, Mapping[str, Effect]]) -> SummaryTable:
    titles = {
        "primary": "Dice, primary", "secondary": "Dice", FOUND: "lesions found", FALSE_POSITIVES: "false positives",
    }  # fmt: skip
    rows = [
        [titles[kind], name, _text(one.mean_difference, 3), _text(one.median_difference, 3), p_text(one.test.p),
         p_text(one.test.p_holm), str(one.test.patients)]
        for kind, found in compared.items() for name, one in found.items()
    ]  # fmt: skip
    return SummaryTable(
        "Differences between arms",
        "First less second, on the seeds that both have finished, with 95 % intervals: bootstrap over seeds and "
        "patients. Wilcoxon tests over patients, each averaged over seeds; Holm within the other comparisons of Dice. "
        "The first line is the primary comparison.",
        ["Of", "Comparison", "Mean difference", "Median difference", "p (Wilcoxon)", "p (Holm)", "Patients"],
        rows,
    )


def _seeds_tables(study: FinishedLesionStudy) -> list[SummaryTable]:
    seeds = study.seeds(*study.arms)
    if not seeds:
        return []
    rows = [[str(seed), *(f"{_dice_of(study, arm, seed):.3f}" for arm in study.arms)] for seed in seeds]
    caption = "Mean over patients. Each seed draws other real lesions, other inserted ones, other first weights."
    return [SummaryTable("Lesion Dice by seed", caption, ["Seed", *study.arms], rows)]


def _dice_of(study: FinishedLesionStudy, arm: str, seed: int) -> float:
    return float(np.nanmean(study.values(arm, DICE, [seed])))


_CAUTION = (
    "Means over seeds and test patients with 95 % intervals: bootstrap over seeds and patients. Dice: of all that is "
    "taken for lesion in the breast, by the true tissue labels where there are any; found: a finding touches the "
    "lesion; false positive: a finding that touches none. "
    "Every arm has the same real lesions, the same scans without lesion and equally many optimiser steps from new "
    "weights. The shipped editor that inserts had itself learned from 200 lesions of 100 other simulated subjects: "
    "what the editor learned elsewhere is what is brought in, not something out of nothing. Simulated patients, whose "
    "lesions the simulator draws as it drew the editor's."
)


def _text(found: SeededInterval, digits: int) -> str:
    return interval_text(plain(found), digits)


def _mean(counts: Sequence[int]) -> str:
    return f"{np.mean(counts):.3g}"
