import pytest
import torch
from breasts import SPEC
from lesions import lesion_mask, scan_without

from cfmri_core.data.lesion_scans import lesion_scan
from cfmri_core.errors import RequestError
from cfmri_core.models.lesion_editor import MASK_VALUE, box_value
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training.lesion_patches import PatchSource, box_channel

SHOWN = PRESETS["ge-hdx-3t"]


@pytest.fixture(scope="module")
def scans():
    return [lesion_scan(scan_without(seed), lesion_mask(), None, SHOWN, 2.0) for seed in (1, 2)]


def test_a_batch_holds_lesions_told_by_mask_lesions_told_by_box_and_none(scans):
    batch = PatchSource(scans, 24, SPEC).draw(64, torch.Generator().manual_seed(0))
    assert batch.images.shape == batch.lesion.shape == batch.breast.shape == batch.region.shape == (64, 1, 24, 24)
    told = batch.lesion.flatten(1).amax(dim=1)
    assert (told == 0).any()
    assert (told == MASK_VALUE).any()
    assert ((told > 0) & (told < MASK_VALUE)).any()
    assert batch.condition.shape == (64, SPEC.width)
    assert (batch.condition == 0).all(dim=1).any()


def test_where_no_lesion_is_told_a_region_is_imagined(scans):
    batch = PatchSource(scans, 24, SPEC).draw(64, torch.Generator().manual_seed(0))
    without = batch.lesion.flatten(1).amax(dim=1) == 0
    assert batch.region[without].flatten(1).amax(dim=1).any()


def test_the_generator_decides(scans):
    source = PatchSource(scans, 24, SPEC)
    first, again = (source.draw(4, torch.Generator().manual_seed(3)).images for _ in range(2))
    assert torch.equal(first, again)


def test_a_box_is_highest_in_its_middle():
    boxes = [((2, 7), (4, 8), (5, 9))]
    values = [float(box_channel(boxes, k, (0, 0), 16).max()) for k in range(9)]
    assert values[:2] == values[7:] == [0, 0]
    assert values[4] == max(values) == pytest.approx(box_value(0))
    assert 0 < values[2] < values[3] < values[4] < MASK_VALUE
    assert box_channel(boxes, 4, (4, 5), 4).min() > 0


def test_scans_without_lesions_are_refused(scans):
    empty = lesion_scan(scan_without(), lesion_mask() & False, None, SHOWN, 2.0)
    with pytest.raises(RequestError, match="No scan has a lesion"):
        PatchSource([empty], 24, SPEC)
