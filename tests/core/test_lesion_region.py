import numpy as np
import pytest
from breasts import breast
from lesions import lesion_mask

from cfmri_core.errors import RequestError
from cfmri_core.pipeline.lesion_region import AskedRegion, breast_mask, dilated, may_change
from cfmri_core.volume import Volume


def test_a_region_grows_by_millimetres_not_by_voxels():
    inside = np.zeros((21, 21, 21), bool)
    inside[10, 10, 10] = True
    grown = dilated(inside, (1.0, 1.0, 4.0), 4.0)
    assert grown[14, 10, 10]
    assert not grown[15, 10, 10]
    assert grown[10, 10, 11]
    assert not grown[10, 10, 12]
    assert dilated(inside, (1, 1, 1), 0) is inside


def test_a_box_is_half_open_and_a_mask_counts_all_but_zero():
    volume = breast(1)
    box = AskedRegion.of_box([1, 2, 3, 4, 6, 5], volume)
    assert (box.is_box, box.inside.sum()) == (True, 3 * 4 * 2)
    mask = AskedRegion.of_mask(Volume((7 * lesion_mask()).astype(np.uint8), volume.affine), volume)
    assert (mask.is_box, mask.inside.sum()) == (False, lesion_mask().sum())


@pytest.mark.parametrize("box", [[1, 2, 3], [4, 0, 0, 4, 2, 2], [-1, 0, 0, 2, 2, 2], [0, 0, 0, 99, 2, 2]])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(RequestError, match="box"):
        AskedRegion.of_box(box, breast(1))


def test_an_empty_mask_and_one_of_another_grid_are_refused():
    volume = breast(1)
    with pytest.raises(RequestError, match="empty"):
        AskedRegion.of_mask(volume.with_voxels(np.zeros(volume.shape, np.uint8)), volume)
    with pytest.raises(RequestError, match="The mask lies on another grid than its scan"):
        AskedRegion.of_mask(Volume(np.ones(volume.shape, np.uint8), np.eye(4)), volume)


def test_a_mask_stored_the_other_way_round_or_cropped_lies_where_it_was_drawn():
    """As converters turn rows, and as an editor crops what it exports."""
    volume = breast(1)
    turned = volume.affine @ np.diag([1, -1, 1, 1])
    turned[:3, 3] += volume.affine[:3, 1] * (volume.shape[1] - 1)
    moved = volume.affine.copy()
    moved[:3, 3] += volume.affine[:3, 0] * 3
    for voxels, affine in ((lesion_mask()[:, ::-1], turned), (lesion_mask()[3:], moved)):
        asked = AskedRegion.of_mask(Volume(np.ascontiguousarray(voxels), affine), volume)
        assert np.array_equal(asked.inside, lesion_mask())


def test_only_the_breast_may_change():
    volume = breast(1)
    asked = AskedRegion(lesion_mask(), is_box=False)
    half = np.zeros(volume.shape, bool)
    half[:9] = True
    region = may_change(asked, half, volume.spacing_mm, 6.0)
    assert region.any()
    assert not region[9:].any()
    with pytest.raises(RequestError, match="does not lie in the breast"):
        may_change(asked, ~dilated(asked.inside, volume.spacing_mm, 20), volume.spacing_mm, 6.0)


def test_without_a_segmenter_all_that_is_not_air_is_breast():
    volume = breast(1)
    mask = breast_mask(volume, None)
    assert mask[volume.voxels > 150].mean() > 0.95
    assert mask[volume.voxels < 10].mean() < 0.1
