"""Classical arms: intensity mapping with a reference population."""

import numpy as np
import pytest

from cfmri_core.evaluation.classical import (
    ReferencePopulation,
    affine_matched,
    foreground_landmarks,
    histogram_matched,
)
from cfmri_core.simulation.protocols import PRESETS

RNG = np.random.default_rng(4)
GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def population():
    return ReferencePopulation("default", seeds=(991_001, 991_002), slab_mm=8.0)


@pytest.fixture
def voxels():
    image = RNG.gamma(2.0, 0.25, (40, 40, 4))
    image[:20] *= 0.05
    return image


def test_matching_gives_the_target_landmarks(voxels):
    target = foreground_landmarks(voxels) ** 1.3 + 0.1
    matched = histogram_matched(voxels, target)
    foreground = voxels > voxels.mean()
    assert np.percentile(matched[foreground], 50) == pytest.approx(target[5], abs=0.01)
    assert np.percentile(matched[foreground], 90) == pytest.approx(target[9], abs=0.01)


def test_matching_keeps_the_order_of_intensities_beyond_the_landmarks_too(voxels):
    matched = histogram_matched(voxels, foreground_landmarks(voxels) * 1.4 + 0.05)
    order = np.argsort(voxels, axis=None)
    assert np.all(np.diff(matched.ravel()[order]) >= -1e-6)
    assert matched.max() > foreground_landmarks(voxels)[-1] * 1.4


def test_matching_to_itself_changes_nothing(voxels):
    assert np.allclose(histogram_matched(voxels, foreground_landmarks(voxels)), voxels, atol=1e-6)


def test_affine_takes_means_to_means():
    assert np.allclose(affine_matched(np.array([0.2, 0.6, 0.4]), (0.2, 0.6), (0.1, 0.9)), [0.1, 0.9, 0.5])


def test_the_population_knows_what_parameters_do(population):
    ge, siemens = population.under(GE), population.under(SIEMENS)
    assert 0 < ge.means[0] < ge.means[1]
    assert siemens.means != ge.means
    assert np.all(np.diff(ge.landmarks) > 0)
    assert population.under(GE) is ge
