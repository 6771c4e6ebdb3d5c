import numpy as np
import pytest

from cfmri_core.errors import GeometryError
from cfmri_core.simulation.anatomy import FIBROGLANDULAR_SHARE, anatomy_from_labels, generate_anatomy
from cfmri_core.simulation.tissues import Tissue
from cfmri_core.volume import Volume


@pytest.fixture(scope="module")
def anatomy():
    return generate_anatomy(3, slab_mm=12)


def test_every_tissue_is_there(anatomy):
    assert set(np.unique(anatomy.tissue)) == set(Tissue) - {Tissue.LESION}


def test_same_seed_same_anatomy(anatomy):
    again = generate_anatomy(3, slab_mm=12)
    assert np.array_equal(again.tissue, anatomy.tissue)
    assert np.array_equal(again.water_fraction, anatomy.water_fraction)


def test_other_seed_other_anatomy(anatomy):
    assert not np.array_equal(generate_anatomy(4, slab_mm=12).tissue, anatomy.tissue)


def test_fibroglandular_share_stays_in_the_measured_range():
    low, high = FIBROGLANDULAR_SHARE
    for seed in range(5):
        assert low - 0.02 <= generate_anatomy(seed, slab_mm=12).fibroglandular_share <= high + 0.01


def test_labels_lie_in_the_breast(anatomy):
    labels = anatomy.tissue_labels()
    assert set(np.unique(labels)) == {0, 1, 2}
    assert not labels[~anatomy.breast].any()


def test_the_breast_lies_in_front_of_the_muscle(anatomy):
    row = np.arange(anatomy.tissue.shape[1])[None, :, None]
    breast = (anatomy.breast * row).sum() / anatomy.breast.sum()
    muscle = ((anatomy.tissue == Tissue.MUSCLE) * row).sum() / (anatomy.tissue == Tissue.MUSCLE).sum()
    assert breast < muscle
    assert anatomy.affine[1, 1] < 0  # j runs to the back


def label_map():
    labels = np.zeros((60, 40, 12), np.uint8)
    labels[5:55, 5:35] = 8
    labels[7:53, 7:33] = 7
    labels[20:40, 10:25] = 1
    labels[28:30, 15:17, 5:7] = 11
    labels[7:53, 7:10] = 9
    return Volume(labels, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_a_label_map_becomes_an_anatomy():
    anatomy = anatomy_from_labels(label_map(), slab_mm=12)
    found = set(np.unique(anatomy.tissue))
    assert {Tissue.SKIN, Tissue.FAT, Tissue.FIBROGLANDULAR, Tissue.MUSCLE, Tissue.LESION} <= found
    assert anatomy.water_fraction[anatomy.tissue == Tissue.FAT].mean() < 0.3
    assert anatomy.water_fraction[anatomy.tissue == Tissue.FIBROGLANDULAR].mean() > 0.8


def test_unknown_label_values_are_refused():
    labels = label_map()
    labels.voxels[0, 0, 0] = 42
    with pytest.raises(GeometryError, match="42"):
        anatomy_from_labels(labels)


def test_a_map_without_gland_is_refused():
    with pytest.raises(GeometryError, match="no fibroglandular"):
        anatomy_from_labels(Volume(np.full((4, 4, 4), 6, np.uint8), np.eye(4)))
