import numpy as np
import pytest

from cfmri_core.evaluation.frechet import frechet_distance, kernel_distance


def test_the_distance_of_two_gaussians_is_the_known_one():
    rng = np.random.default_rng(0)
    first = rng.standard_normal((20_000, 3))
    second = rng.standard_normal((20_000, 3)) * 2 + 1
    # |1 - 0|^2 x 3 + 3 x (2 - 1)^2
    assert frechet_distance(first, second) == pytest.approx(6, rel=0.05)


def test_sets_of_one_distribution_are_near_and_others_far():
    rng = np.random.default_rng(0)
    first, same, other = (rng.standard_normal((300, 8)) + shift for shift in (0, 0, 0.7))
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first, same) < 0.3 * frechet_distance(first, other)
    assert abs(kernel_distance(first, same)) < 0.2 * kernel_distance(first, other)
