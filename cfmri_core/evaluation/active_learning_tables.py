"""Sum up an active-learning study: learning curves, labels needed, labels saved against random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.active_learning.next_case import RANDOM, STRATEGIES
from cfmri_core.evaluation.active_learning_study import Campaign, Measured, Round
from cfmri_core.evaluation.hierarchical_bootstrap import (
    SeededInterval,
    Values,
    mean_difference,
    mean_over_patients,
    seeded_interval,
)
from cfmri_core.evaluation.summary_table import SummaryTable

METRIC = "mean dice"
#: The goal: the Dice with all labels less this.
MARGIN = 0.01
#: Part of the labels that a strategy is to save against random.
AIM = 0.3


@dataclass(frozen=True)
class Point:
    """A place on a learning curve.

    Attributes:
        labels: Labelled cases.
        dice: Mean Dice over seeds, patients and scanner models.
        by_scanner: The same on the scans of one scanner model.
    """

    labels: int
    dice: SeededInterval
    by_scanner: Mapping[str, SeededInterval]


@dataclass(frozen=True)
class Comparison:
    """A strategy against random.

    Attributes:
        labels_needed: Labels at which the mean curve reaches the goal, linear between trainings.
        labels_needed_by_random: The same of random.
        saved: Share of random's labels that the strategy does without.
        dice_gain: Mean Dice less that of random, averaged over the trainings between start and end.
    """

    labels_needed: SeededInterval
    labels_needed_by_random: SeededInterval
    saved: SeededInterval
    dice_gain: SeededInterval


class FinishedCampaigns:
    """Finished campaigns as arrays over seeds and patients."""

    def __init__(self, campaigns: Mapping[Campaign, Sequence[Round]]) -> None:
        self.campaigns = campaigns
        found = {campaign.strategy for campaign in campaigns}
        self.strategies = [name for name in STRATEGIES if name in found]
        rounds = next(iter(campaigns.values()))
        self.labels = [len(item.labelled) for item in rounds]
        self.patients = sorted(rounds[0].patients)
        self.scanners = sorted({scanner for patient in rounds[0].patients.values() for scanner in patient})

    def seeds(self, *strategies: str) -> list[int]:
        """Return the seeds that all of these strategies have finished."""
        finished = [{campaign.seed for campaign in self.campaigns if campaign.strategy == name} for name in strategies]
        return sorted(set.intersection(*finished))

    def curve(self, strategy: str, seeds: Sequence[int], scanners: Sequence[str] = ()) -> list[NDArray[np.float64]]:
        """Return the Dice at each training, shape ``(seeds, patients)``, averaged over scanner models (all if none)."""
        of = [self.campaigns[Campaign(strategy, seed)] for seed in seeds]
        chosen = scanners or self.scanners
        return [
            np.array([[_dice(rounds[k].patients, name, chosen) for name in self.patients] for rounds in of])
            for k in range(len(self.labels))
        ]


def curves(study: FinishedCampaigns) -> dict[str, list[Point]]:
    """Return the learning curve of each strategy; the last point has all labels."""
    found = {}
    for strategy in study.strategies:
        seeds = study.seeds(strategy)
        overall = study.curve(strategy, seeds)
        single = {scanner: study.curve(strategy, seeds, [scanner]) for scanner in study.scanners}
        found[strategy] = [
            Point(
                labels,
                seeded_interval(mean_over_patients, overall[k]),
                {scanner: seeded_interval(mean_over_patients, single[scanner][k]) for scanner in study.scanners},
            )
            for k, labels in enumerate(study.labels)
        ]
    return found


def comparisons(study: FinishedCampaigns, scanners: Sequence[str] = ()) -> dict[str, Comparison]:
    """Compare each strategy with random on the seeds that both have finished, on some scanner models (or all)."""
    found = {}
    for strategy in study.strategies:
        seeds = study.seeds(strategy, RANDOM) if RANDOM in study.strategies else []
        if strategy != RANDOM and seeds:
            own, random = (study.curve(name, seeds, scanners) for name in (strategy, RANDOM))
            needed = partial(labels_needed, study.labels)
            between = slice(1, len(study.labels) - 1)  # start and end are the same for both
            found[strategy] = Comparison(
                seeded_interval(needed, *own),
                seeded_interval(needed, *random),
                seeded_interval(partial(saved_share, study.labels), *own, *random),
                seeded_interval(mean_difference, np.mean(own[between], axis=0), np.mean(random[between], axis=0)),
            )
    return found


def labels_needed(labels: Sequence[int], *curve: Values) -> Values:
    """Return at how many labels the mean curve first reaches that of all labels less `MARGIN`, linear in between.

    Args:
        labels: Labels at each training, rising.
        *curve: Dice at each training, patients along the last axis; the last is with all labels, so each reaches it.
    """
    dice = np.stack([values.mean(axis=-1) for values in curve], axis=-1)
    goal = dice[..., -1:] - MARGIN
    first = np.argmax(dice >= goal, axis=-1)[..., None]
    before = np.maximum(first - 1, 0)
    counts = np.asarray(labels, dtype=np.float64)
    low, high = np.take_along_axis(dice, before, -1), np.take_along_axis(dice, first, -1)
    share = np.where(first > 0, (goal - low) / np.where(high > low, high - low, 1.0), 0.0)
    needed = counts[before] + share * (counts[first] - counts[before])
    return np.asarray(needed[..., 0])


def saved_share(labels: Sequence[int], *curves_: Values) -> Values:
    """Return the share of random's labels that a strategy saves; the curve of the strategy first, then random's."""
    half = len(curves_) // 2
    return np.asarray(1 - labels_needed(labels, *curves_[:half]) / labels_needed(labels, *curves_[half:]))


def summary(study: FinishedCampaigns) -> dict[str, Any]:
    """Return everything for the result file."""
    compared = {"all scanners alike": comparisons(study)}
    compared |= {scanner: comparisons(study, [scanner]) for scanner in study.scanners}
    found = curves(study)
    return {
        "goal": f"mean Dice with all labels less {MARGIN}, with {AIM:.0%} fewer labels than random",
        "curves": found,
        "comparisons": compared,
        "tables": [*_curve_tables(study, found), _comparison_table(compared)],
        "n_patients": len(study.patients),
        "seeds": {name: study.seeds(name) for name in study.strategies},
        "labelled": [
            {**vars(campaign), "cases": [item.labelled for item in rounds[:-1]]}
            for campaign, rounds in study.campaigns.items()
        ],
    }


def _curve_tables(study: FinishedCampaigns, found: Mapping[str, Sequence[Point]]) -> list[SummaryTable]:
    def table(name: str, caption: str, scanner: str = "") -> SummaryTable:
        rows = [
            [str(labels), *(_interval(_of(points[k], scanner), 1, 4) for points in found.values())]
            for k, labels in enumerate(study.labels)
        ]
        return SummaryTable(name, caption, ["Labelled cases", *found], rows)

    single = [table(f"The same on scans of {scanner}", "", scanner) for scanner in study.scanners]
    return [table("Mean Dice against the number of labelled cases", _CAUTION), *single]


def _of(point: Point, scanner: str) -> SeededInterval:
    return point.by_scanner[scanner] if scanner else point.dice


def _comparison_table(compared: Mapping[str, Mapping[str, Comparison]]) -> SummaryTable:
    header = ["Tested on", "Strategy", "Labels needed", "Random needs", "Labels saved, %", "Dice gained on the way"]
    rows = [
        [tested, name, _interval(one.labels_needed, 1, 1), _interval(one.labels_needed_by_random, 1, 1),
         _interval(one.saved, 100, 0), _interval(one.dice_gain, 1, 4)]
        for tested, strategies in compared.items() for name, one in strategies.items()
    ]  # fmt: skip
    return SummaryTable(
        f"Labels until the mean Dice with all labels less {MARGIN} is reached",
        "Labels needed: where the mean curve over seeds first gets there, linear between trainings. Dice gained: mean "
        "over the trainings between start and end. All scanners alike is the primary comparison.",
        header,
        rows,
    )


_CAUTION = (
    "Mean over seeds, patients and scanner models, the rare as much as the common, with 95 % intervals: bootstrap over "
    "seeds and patients. A seed draws starting set, first weights and batches; all strategies start alike, and every "
    "training has the same number of optimiser steps from new weights. Simulated patients; one pool."
)


def _dice(patients: Measured, patient: str, scanners: Sequence[str]) -> float:
    return float(np.mean([patients[patient][scanner][METRIC] for scanner in scanners if scanner in patients[patient]]))


def _interval(found: SeededInterval, factor: float, digits: int) -> str:
    mean = f"{factor * found.value:.{digits}f}"
    limits = f" [{factor * found.low:.{digits}f}, {factor * found.high:.{digits}f}]"
    return mean + limits if np.isfinite(found.low) else mean
