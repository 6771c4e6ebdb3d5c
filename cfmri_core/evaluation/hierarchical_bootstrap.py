"""Confidence intervals over patients and training seeds at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES = 10_000


@dataclass(frozen=True)
class SeededInterval:
    """A statistic over patients and seeds with its confidence interval.

    Attributes:
        value: The statistic of all of them.
        low: Lower limit; NaN with fewer than three patients.
        high: Upper limit; NaN with fewer than three patients.
        patients: Patients with a finite value in every seed and array.
        seeds: Number of training seeds.
    """

    value: float
    low: float
    high: float
    patients: int
    seeds: int


def seeded_interval(
    statistic: Callable[..., Values], *arrays: Values, seed: int = 0, level: float = 0.95
) -> SeededInterval:
    """Bootstrap a statistic of one or more arrays whose seeds and patients are the same.

    Each of 10,000 resamples draws seeds, averages over them within each patient, then draws patients;
    one draw serves all arrays, so that differences between them stay paired.

    Args:
        statistic: Takes one array per array given, patients along the last axis, and reduces that axis.
        *arrays: Values, shape ``(seeds, patients)``.
        seed: Seed of the resampling.
        level: Confidence level; the limits are percentiles.

    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8 (hierarchical data).
    """
    finite = np.logical_and.reduce([np.isfinite(array).all(axis=0) for array in arrays])
    kept = [array[:, finite] for array in arrays]
    seeds, patients = kept[0].shape
    if patients == 0:
        return SeededInterval(math.nan, math.nan, math.nan, 0, seeds)
    value = float(statistic(*(array.mean(axis=0) for array in kept)))
    if patients < 3:
        return SeededInterval(value, math.nan, math.nan, patients, seeds)
    rng = np.random.default_rng(seed)
    shares = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
    drawn = rng.integers(patients, size=(RESAMPLES, patients))
    resampled = statistic(*(np.take_along_axis(shares @ array, drawn, axis=1) for array in kept))
    low, high = np.nanpercentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return SeededInterval(value, float(low), float(high), patients, seeds)


def mean_over_patients(values: Values) -> Values:
    """Return the mean over the last axis."""
    return np.asarray(values.mean(axis=-1))


def median_difference(first: Values, second: Values) -> Values:
    """Return the median over patients of the paired difference."""
    return np.asarray(np.median(first - second, axis=-1))


def mean_difference(first: Values, second: Values) -> Values:
    """Return the mean over patients of the paired difference."""
    return np.asarray((first - second).mean(axis=-1))


def share_of_gap(arm: Values, lower: Values, upper: Values) -> Values:
    """Return how much of the way from ``lower`` to ``upper`` an arm goes: 0 none of it, 1 all of it.

    NaN where there is no gap to close: ``upper`` is not above ``lower``.
    """
    gap = (upper - lower).mean(axis=-1)
    closed = (arm - lower).mean(axis=-1)
    return np.asarray(np.where(gap > 0, closed / np.where(gap > 0, gap, 1.0), np.nan))
