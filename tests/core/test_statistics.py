"""Statistics against cases with a known answer."""

import math

import numpy as np
import pytest

from cfmri_core.evaluation.statistics import holm, mean_interval, paired_tests


def test_interval_holds_the_mean_and_narrows_with_patients():
    rng = np.random.default_rng(0)
    few, many = (mean_interval(rng.normal(5, 1, size)) for size in (10, 200))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low < 5 < many.high


def test_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("cfmri_core.evaluation.statistics.RESAMPLES", 500)
    rng = np.random.default_rng(3)
    intervals = [mean_interval(rng.exponential(1.0, 40)) for _ in range(100)]
    assert sum(interval.low <= 1.0 <= interval.high for interval in intervals) >= 85


def test_interval_is_the_same_for_the_same_seed():
    values = list(np.random.default_rng(0).normal(size=12))
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)


def test_undefined_patients_do_not_count():
    interval = mean_interval([1.0, math.nan, 3.0, math.inf])
    assert (interval.mean, interval.patients) == (2.0, 2)
    assert math.isnan(interval.low)


def test_no_patient_gives_no_value():
    assert math.isnan(mean_interval([]).mean)


def test_all_equal_gives_an_interval_of_no_width():
    assert mean_interval([2.0] * 5).low == mean_interval([2.0] * 5).high == 2.0


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "none": math.nan})
    assert corrected["a"] == pytest.approx(0.03)
    assert corrected["c"] == pytest.approx(0.06)
    assert corrected["b"] == pytest.approx(0.06)
    assert math.isnan(corrected["none"])


def test_paired_test_finds_a_consistent_difference():
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    tests = paired_tests({"better": (base + 1 + 0.1 * rng.normal(size=20), base), "same": (base, base)})
    assert tests["better"].median_difference == pytest.approx(1.0, abs=0.1)
    assert tests["better"].p_holm == pytest.approx(2 * tests["better"].p)
    assert tests["better"].p_holm < 0.001
    assert tests["same"].p_holm == 1.0


def test_paired_test_leaves_out_patients_with_one_value():
    assert paired_tests({"x": ([1.0, 2.0, math.nan], [0.0, 0.0, 0.0])})["x"].patients == 2


@pytest.mark.parametrize("differences", [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -0.1, 0.2], [0.0] * 9 + [0.001]])
def test_a_median_of_mostly_equal_differences_has_an_interval(differences):
    test = paired_tests({"tied": (differences, [0.0] * len(differences))})["tied"]
    assert test.low <= test.median_difference == 0 <= test.high
