import dataclasses

import numpy as np
import pytest
from scipy.ndimage import label

from cfmri_core.errors import GeometryError
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.lesions import with_lesions
from cfmri_core.simulation.tissues import Tissue


@pytest.fixture(scope="module")
def anatomy():
    return generate_anatomy(3, slab_mm=20)


def test_lesions_are_whole_masses_in_the_breast_and_change_nothing_far_away(anatomy):
    lesioned = with_lesions(anatomy, 2, 3)
    lesion = lesioned.tissue == Tissue.LESION
    assert label(lesion)[1] == 2
    assert not lesion[~anatomy.breast].any()
    assert np.array_equal(lesioned.tissue[~lesion], anatomy.tissue[~lesion])
    far = ~anatomy.breast
    assert np.allclose(lesioned.water_fraction[far], anatomy.water_fraction[far], atol=0.3)
    assert np.array_equal(lesioned.texture, anatomy.texture)


def test_fat_around_a_lesion_is_swollen(anatomy):
    lesioned = with_lesions(anatomy, 1, 3)
    fat = (anatomy.tissue == Tissue.FAT) & anatomy.breast & (lesioned.tissue != Tissue.LESION)
    assert (lesioned.water_fraction - anatomy.water_fraction)[fat].max() > 0.1


def test_the_same_seed_puts_the_same_lesion(anatomy):
    first, again, other = (with_lesions(anatomy, 1, seed).tissue for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_lesions_leave_the_anatomy_as_it_is(anatomy):
    assert with_lesions(anatomy, 0, 3) is anatomy


def test_an_anatomy_without_room_is_refused(anatomy):
    fat = dataclasses.replace(anatomy, tissue=np.full_like(anatomy.tissue, Tissue.FAT))
    with pytest.raises(GeometryError, match="no room"):
        with_lesions(fat, 1, 3)
