"""How many labels does a strategy save?

A campaign starts with the same few labelled cases for every strategy, trains a segmenter, lets the strategy choose the
next cases, reveals their labels, and trains anew, until its labels are spent; each segmenter is measured on test
patients. What a segmenter depends on (seed and labelled cases) names its file, so an interrupted study goes on, and
strategies that come to the same labelled set share one training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cfmri_core.active_learning.next_case import DISAGREEMENT, STRATEGIES, Case, next_cases
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.segmentation_study import LabelledScan, averaged
from cfmri_core.evaluation.segmentation_suite import tissue_dice
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, prefixed, silent

#: Patient to scanner model of the test scan to metric to value.
Measured = Mapping[str, Mapping[str, Mapping[str, float]]]


class Pool(Protocol):
    """Where cases and their labels come from; see `cfmri_core.training.labelling_pool`."""

    @property
    def cases(self) -> Sequence[Case]:
        """Every case, labelled or not."""

    def train(self, names: Sequence[str], seed: int, folder: Path, progress: Progress) -> Segmenter:
        """Train on the labels of these cases alone."""

    def disagreements(self, segmenter: Segmenter, names: Sequence[str]) -> dict[str, float]:
        """Return the disagreement of each case."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many labels a campaign spends.

    Attributes:
        start: Labelled cases to begin with, drawn at random by the seed; the same for every strategy.
        step: Labels between two trainings.
        most: Labels at its end.
    """

    start: int = 4
    step: int = 4
    most: int = 24

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.most or self.step < 1:
            raise RequestError(f"A campaign from {self.start} to {self.most} labels by {self.step} cannot be.",
                               "Give 1 <= start <= most, and a step of 1 or more.")  # fmt: skip

    @property
    def sizes(self) -> tuple[int, ...]:
        """Labelled cases at each training."""
        return tuple(range(self.start, self.most + 1, self.step))


@dataclass(frozen=True)
class Campaign:
    """One strategy with one seed of starting set, first weights, batches and ties.

    Attributes:
        strategy: One of `STRATEGIES`.
        seed: The seed.
    """

    strategy: str
    seed: int

    def path(self, root: Path) -> Path:
        """Return where its result is."""
        return root / "campaigns" / self.strategy / f"seed-{self.seed}.json"


@dataclass(frozen=True)
class Round:
    """One training of a campaign.

    Attributes:
        labelled: Names of the cases it was trained on.
        patients: What was measured.
    """

    labelled: tuple[str, ...]
    patients: Measured


def planned_campaigns(strategies: Sequence[str], seeds: int, part: tuple[int, int]) -> list[Campaign]:
    """List the campaigns of a study seed by seed, or those of every n-th seed.

    Args:
        strategies: Some of `STRATEGIES`.
        seeds: Number of seeds, from 0.
        part: ``(k, n)`` takes the k-th of n equal parts of the seeds, counted from 1.

    Raises:
        RequestError: There is no such strategy or part.
    """
    for name in strategies:
        if name not in STRATEGIES:
            raise RequestError(f"There is no strategy '{name}'.", f"Use some of: {', '.join(STRATEGIES)}.")
    number, parts = part
    if not 1 <= number <= parts:
        raise RequestError(f"There is no part {number} of {parts}.", "Give --part K/N with K from 1 to N.")
    return [Campaign(strategy, seed) for seed in range(seeds)[number - 1 :: parts] for strategy in strategies]


def complete_campaigns(
    campaigns: Sequence[Campaign],
    pool: Pool,
    scans: Sequence[LabelledScan],
    budget: Budget,
    root: Path,
    progress: Progress = silent,
) -> None:
    """Run the campaigns that have no result yet, and train on all labels once for each seed.

    Raises:
        RequestError: The pool has fewer cases than the budget.
    """
    if len(pool.cases) < budget.most:
        raise RequestError(f"The pool has {len(pool.cases)} cases, the budget {budget.most}.", "Lower --most.")
    runner = _Runner(pool, scans, budget, root)
    for number, campaign in enumerate(campaigns, 1):
        prefix = f"campaign {number} of {len(campaigns)}, {campaign.strategy} seed {campaign.seed}"
        if not campaign.path(root).exists():
            rounds = runner.run(campaign, prefixed(progress, prefix))
            write_text(campaign.path(root), json_text({**vars(campaign), "rounds": rounds}))
        progress(number, len(campaigns), f"{prefix}: done")


def finished_campaigns(root: Path) -> dict[Campaign, list[Round]]:
    """Read the campaigns that are complete; the last round of each has all labels of the pool.

    Raises:
        RequestError: None is, or a result is damaged.
    """
    found: dict[Campaign, list[Round]] = {}
    for path in sorted((root / "campaigns").glob("*/seed-*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rounds = [Round(tuple(item["labelled"]), item["patients"]) for item in content["rounds"]]
            found[Campaign(content["strategy"], int(content["seed"]))] = rounds
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path} is not the result of a campaign.", "Remove it; it is made again.") from error
    if not found:
        raise RequestError(f"{root} holds no complete campaign.", "Run the study first.")
    return found


def starting_set(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """Draw the cases that are labelled at the start; the strategy has no say in it."""
    order = np.random.default_rng((seed, 13)).permutation(len(cases))
    return [cases[index] for index in sorted(order[:size])]


def measure(segmenter: Segmenter, scans: Sequence[LabelledScan]) -> dict[str, dict[str, dict[str, float]]]:
    """Return each patient's Dice by scanner model: of each tissue, and their mean; scans of one model are averaged."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for scan in scans:
        overlaps = tissue_dice(segment_volume(scan.volume, segmenter), scan.truth)
        overlaps["mean dice"] = float(np.nanmean(list(overlaps.values())))
        found.setdefault(scan.patient, {}).setdefault(scan.model, []).append(overlaps)
    return {
        patient: {model: averaged(measured) for model, measured in models.items()} for patient, models in found.items()
    }


class _Runner:
    """Runs campaigns from files: what is on disk is not computed again."""

    def __init__(self, pool: Pool, scans: Sequence[LabelledScan], budget: Budget, root: Path) -> None:
        self.pool, self.scans, self.budget, self.root = pool, scans, budget, root

    def run(self, campaign: Campaign, progress: Progress) -> list[Round]:
        """Run one campaign, and the training on all labels at its end."""
        seed, everything = campaign.seed, list(self.pool.cases)
        labelled, rounds = starting_set(everything, self.budget.start, seed), []
        for size in self.budget.sizes:
            if size > len(labelled):
                labelled += self._acquired(campaign, labelled, size - len(labelled), progress)
            rounds.append(self._round(labelled, seed, progress))
        return [*rounds, self._round(everything, seed, progress)]

    def _acquired(self, campaign: Campaign, labelled: list[Case], count: int, progress: Progress) -> list[Case]:
        names = {case.name for case in labelled}
        left = [case for case in self.pool.cases if case.name not in names]
        if campaign.strategy == DISAGREEMENT:
            known = self._disagreements(labelled, campaign.seed, progress)
            left = [replace(case, disagreement=known[case.name]) for case in left]
        seed = campaign.seed * 1000 + len(labelled)  # a new order of equals at each round
        chosen = {choice.name for choice in next_cases(campaign.strategy, left, labelled, count, seed)}
        return [case for case in self.pool.cases if case.name in chosen]

    def _round(self, labelled: Sequence[Case], seed: int, progress: Progress) -> Round:
        names = tuple(sorted(case.name for case in labelled))
        folder = self._folder(names, seed)

        def make() -> dict[str, Any]:
            segmenter = self.pool.train(names, seed, folder, progress)
            return {"segmenter_sha256": segmenter.sha256, "patients": measure(segmenter, self.scans)}

        return Round(names, _kept(folder / "result.json", make)["patients"])

    def _disagreements(self, labelled: Sequence[Case], seed: int, progress: Progress) -> dict[str, float]:
        names = tuple(sorted(case.name for case in labelled))
        self._round(labelled, seed, progress)
        folder = self._folder(names, seed)

        def make() -> dict[str, float]:
            left = [case.name for case in self.pool.cases if case.name not in names]
            return self.pool.disagreements(Segmenter.load(folder / "model"), left)

        return _kept(folder / "disagreements.json", make)

    def _folder(self, names: Sequence[str], seed: int) -> Path:
        digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        return self.root / "trainings" / f"seed-{seed}" / f"{len(names):03d}-{digest}"


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a file holds; made where there is none."""
    if not path.exists():
        write_text(path, json_text(make()))
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
