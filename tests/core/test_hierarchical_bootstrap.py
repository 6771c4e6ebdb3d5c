import math

import numpy as np
import pytest

from cfmri_core.evaluation.hierarchical_bootstrap import (
    mean_difference,
    mean_over_patients,
    median_difference,
    seeded_interval,
    share_of_gap,
)


def values(mean, seeds=5, patients=30, seed_spread=0.0, patient_spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    by_seed = seed_spread * rng.standard_normal((seeds, 1))
    return mean + by_seed + patient_spread * rng.standard_normal((1, patients)) + 0 * rng.random((seeds, patients))


def test_interval_holds_the_mean_and_widens_with_the_spread_of_seeds():
    steady = seeded_interval(mean_over_patients, values(0.7))
    shaky = seeded_interval(mean_over_patients, values(0.7, seed_spread=0.1))
    assert steady.low < steady.value < steady.high
    assert steady.value == pytest.approx(values(0.7).mean())
    assert shaky.high - shaky.low > 1.3 * (steady.high - steady.low)
    assert (steady.patients, steady.seeds) == (30, 5)


def test_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("cfmri_core.evaluation.hierarchical_bootstrap.RESAMPLES", 400)
    intervals = [seeded_interval(mean_over_patients, values(0.7, patients=40, seed=seed)) for seed in range(100)]
    assert 88 <= sum(interval.low <= 0.7 <= interval.high for interval in intervals) <= 100


def test_paired_differences_are_sharper_than_the_patients_are():
    worse = values(0.6)
    better = worse + 0.02
    difference = seeded_interval(mean_difference, better, worse)
    assert difference.low == pytest.approx(0.02)
    assert difference.high == pytest.approx(0.02)
    assert seeded_interval(median_difference, better, worse).value == pytest.approx(0.02)


def test_share_of_the_gap():
    lower = values(0.6)
    closed = seeded_interval(share_of_gap, lower + 0.08, lower, lower + 0.1)
    assert closed.value == pytest.approx(0.8)
    assert closed.low == pytest.approx(0.8)
    assert math.isnan(float(share_of_gap(lower, lower, lower - 0.1).mean()))


def test_patients_without_a_value_do_not_count():
    holed = values(0.5)
    holed[2, 3] = np.nan
    assert seeded_interval(mean_over_patients, holed).patients == 29
    assert seeded_interval(mean_over_patients, np.full((2, 4), np.nan)).patients == 0
    few = seeded_interval(mean_over_patients, values(0.5, patients=2))
    assert math.isnan(few.low)
    assert few.value == pytest.approx(values(0.5, patients=2).mean())
