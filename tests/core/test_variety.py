import numpy as np
import pytest

from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.tissues import Tissue
from cfmri_core.simulation.variety import varied

SEEDS = range(16)


@pytest.fixture(scope="module")
def pairs():
    drawn = generate_anatomy(5, slab_mm=6)
    return drawn, [varied(drawn, seed) for seed in SEEDS]


def test_some_builds_differ_and_some_do_not(pairs):
    drawn, others = pairs
    same = [np.array_equal(other.tissue, drawn.tissue) for other in others]
    assert 0 < sum(same) < len(same)


def test_a_build_has_the_drawn_grid_and_a_breast_of_both_tissues(pairs):
    drawn, others = pairs
    for other in others:
        assert other.tissue.shape == drawn.tissue.shape == other.water_fraction.shape == other.breast.shape
        assert np.array_equal(other.affine, drawn.affine)
        assert {1, 2} <= set(np.unique(other.tissue_labels()))
        assert other.water_fraction.dtype == np.float32
        assert 0 <= other.water_fraction.min() <= other.water_fraction.max() <= 1


def test_some_show_no_thorax_and_some_one_breast(pairs):
    drawn, others = pairs
    assert any(not (other.tissue == Tissue.LUNG).any() for other in others)
    assert any(other.breast.sum() < 0.65 * drawn.breast.sum() for other in others)


def test_no_label_lies_in_air(pairs):
    """Not even where a second breast was drawn and taken away."""
    for other in pairs[1]:
        assert not (other.tissue_labels()[other.tissue == Tissue.AIR]).any()


def test_the_same_seed_gives_the_same_build(pairs):
    drawn, others = pairs
    assert all(np.array_equal(varied(drawn, seed).tissue, others[seed].tissue) for seed in SEEDS)
