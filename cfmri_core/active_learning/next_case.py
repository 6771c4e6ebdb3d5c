"""Choose the case to label next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.active_learning.coverage import distances_to_nearest
from cfmri_core.errors import RequestError

RANDOM, COVERAGE, DISAGREEMENT = "random", "acquisition_coverage", "counterfactual_disagreement"
STRATEGIES = (RANDOM, COVERAGE, DISAGREEMENT)
#: What a case whose acquisition is labelled already still counts, on the scale of `distances_to_nearest`: at a hospital
#: with one scanner and protocol the disagreement alone decides.
_LEAST_REMOTENESS = 0.05


@dataclass(frozen=True)
class Case:
    """A case that can be labelled, or is.

    Attributes:
        name: Its id.
        acquisition: How it was acquired, as far as known.
        disagreement: Of the segmenter in use, see `cfmri_core.active_learning.disagreement`; ``None`` if not known.
    """

    name: str
    acquisition: AcquisitionParameters
    disagreement: float | None = None


@dataclass(frozen=True)
class Choice:
    """The case to label next.

    Attributes:
        name: Its id.
        strategy: The strategy that chose it: another than the one asked for where no disagreement is known.
        value: What it was chosen by; the largest of all.
    """

    name: str
    strategy: str
    value: float


def next_case(strategy: str, unlabelled: Sequence[Case], labelled: Sequence[Case], seed: int = 0) -> Choice | None:
    """Choose the case to label next.

    - ``random``: any.
    - ``acquisition_coverage``: the one whose acquisition lies furthest from those of the labelled cases.
    - ``counterfactual_disagreement``: the same distance, weighted by the rank of the case's disagreement: 1 for the
      largest, towards 1/2 for the least. Disagreement alone asks for one kind of scanner again and again. Cases whose
      disagreement is not known are not chosen; where no case's is, the choice is by coverage.

    Args:
        strategy: One of `STRATEGIES`.
        unlabelled: Cases to choose from.
        labelled: Cases that have a label.
        seed: Decides between equals, and the random choice; the order of the cases does not.

    Returns:
        The choice, ``None`` if no case is left.

    Raises:
        RequestError: There is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise RequestError(f"There is no strategy '{strategy}'.", f"Use one of: {', '.join(STRATEGIES)}.")
    if not unlabelled:
        return None
    if strategy == DISAGREEMENT:
        scored = [case for case in unlabelled if case.disagreement is not None]
        if scored:
            return _largest(strategy, scored, _worth(scored, labelled), seed)
        strategy = COVERAGE
    values = _remoteness(unlabelled, labelled) if strategy == COVERAGE else np.zeros(len(unlabelled))
    return _largest(strategy, unlabelled, values, seed)


def next_cases(
    strategy: str, unlabelled: Sequence[Case], labelled: Sequence[Case], count: int, seed: int = 0
) -> list[Choice]:
    """Choose several cases, one after the other, as if each were labelled at once; fewer where no more are left."""
    chosen: list[Choice] = []
    left, done = list(unlabelled), list(labelled)
    while len(chosen) < count and (choice := next_case(strategy, left, done, seed)):
        chosen.append(choice)
        done += [case for case in left if case.name == choice.name]
        left = [case for case in left if case.name != choice.name]
    return chosen


def _worth(cases: Sequence[Case], labelled: Sequence[Case]) -> NDArray[np.float64]:
    """Return how little each case's acquisition is represented, weighted by how it ranks in disagreement."""
    ranks = rankdata([case.disagreement for case in cases]) / len(cases)
    return np.asarray((1 + ranks) / 2 * (_LEAST_REMOTENESS + _remoteness(cases, labelled)))


def _remoteness(cases: Sequence[Case], labelled: Sequence[Case]) -> NDArray[np.float64]:
    return distances_to_nearest([case.acquisition for case in cases], [case.acquisition for case in labelled])


def _largest(strategy: str, cases: Sequence[Case], values: NDArray[np.float64], seed: int) -> Choice:
    """Return the case of the largest value; among equals, one that the seed decides."""
    names = sorted(case.name for case in cases)
    shuffled = np.random.default_rng((seed, 12)).permutation(len(names))
    place = dict(zip(names, shuffled.tolist(), strict=True))
    best = max(range(len(cases)), key=lambda index: (values[index], place[cases[index].name]))
    return Choice(cases[best].name, strategy, float(values[best]))
