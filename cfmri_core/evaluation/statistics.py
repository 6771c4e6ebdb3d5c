"""Statistics over patients: one value per patient, never per slice, so that nothing is counted twice."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over patients with its bootstrap confidence interval.

    Attributes:
        mean: Mean over patients.
        low: Lower limit; NaN with fewer than three patients.
        high: Upper limit; NaN with fewer than three patients.
        patients: Number of patients with a finite value.
    """

    mean: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two arms on the same patients.

    Attributes:
        median_difference: Median over patients of first minus second.
        low: Lower limit of the bootstrap interval of that median.
        high: Upper limit of the bootstrap interval of that median.
        p: Two-sided p of the Wilcoxon signed-rank test, not corrected.
        p_holm: The same after Holm's correction over the family of comparisons.
        patients: Number of pairs.
    """

    median_difference: float
    low: float
    high: float
    p: float
    p_holm: float
    patients: int


def mean_interval(values: Sequence[float], seed: int = 0, level: float = 0.95) -> Interval:
    """Return the mean over patients with its BCa bootstrap interval of 10,000 resamples.

    Source: Efron, J Am Stat Assoc 1987;82:171-185 (bias-corrected and accelerated bootstrap).
    """
    finite = _finite(values)
    if finite.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    low, high = _bootstrap(finite, "mean", seed, level)
    return Interval(float(finite.mean()), low, high, int(finite.size))


def paired_tests(
    comparisons: Mapping[str, tuple[Sequence[float], Sequence[float]]], seed: int = 0
) -> dict[str, PairedTest]:
    """Compare pairs of arms, patient by patient, as one family of tests.

    The interval is BCa, or of percentiles where most differences are equal and BCa is undefined.

    Args:
        comparisons: Name of the comparison to the values of its two arms in the same patient order.
        seed: Seed of the bootstrap.

    Sources: Wilcoxon, Biometrics Bulletin 1945;1:80-83; Holm, Scand J Stat 1979;6:65-70.
    """
    pairs = {name: _finite_pairs(*arms) for name, arms in comparisons.items()}
    p_values = {name: _wilcoxon(difference) for name, difference in pairs.items()}
    corrected = holm(p_values)
    tests = {}
    for name, difference in pairs.items():
        low, high = _bootstrap(difference, "median", seed, 0.95) if difference.size else (math.nan, math.nan)
        median = float(np.median(difference)) if difference.size else math.nan
        tests[name] = PairedTest(median, low, high, p_values[name], corrected[name], int(difference.size))
    return tests


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for the size of their family, keeping their order; NaN stays NaN and does not count.

    Source: Holm, Scand J Stat 1979;6:65-70.
    """
    ordered = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    corrected = dict.fromkeys(p_values, math.nan)
    largest = 0.0
    for rank, (p, name) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - rank)))
        corrected[name] = largest
    return corrected


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    finite: NDArray[np.float64] = array[np.isfinite(array)]
    return finite


def _finite_pairs(first: Sequence[float], second: Sequence[float]) -> NDArray[np.float64]:
    return _finite(list(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)))


def _bootstrap(values: NDArray[np.float64], statistic: str, seed: int, level: float) -> tuple[float, float]:
    if values.size < 3:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    function = {"mean": np.mean, "median": np.median}[statistic]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of the case below
        result = stats.bootstrap(
            (values,),
            function,
            n_resamples=RESAMPLES,
            confidence_level=level,
            method="BCa",
            vectorized=True,
            batch=1000,
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    if math.isnan(low):  # most values are equal: leaving one out never moves the median, so there is no acceleration
        low, high = np.quantile(result.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _wilcoxon(difference: NDArray[np.float64]) -> float:
    if difference.size == 0:
        return math.nan
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, alternative="two-sided").pvalue)
