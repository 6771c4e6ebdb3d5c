import math

import numpy as np
import pytest

from cfmri_core.evaluation.segmentation_suite import tissue_agreement
from cfmri_core.volume import Volume


@pytest.fixture
def truth():
    labels = np.zeros((20, 20, 6), dtype=np.uint8)
    labels[3:17, 3:17] = 1
    labels[8:12, 8:12] = 2
    return Volume(labels, np.diag([1.0, 1.0, 2.0, 1.0]))


def test_the_truth_itself_is_perfect(truth):
    measured = tissue_agreement(truth, truth)
    assert {name: value for name, value in measured.items() if value != 1} == {
        "fat hd95_mm": 0.0, "fibroglandular hd95_mm": 0.0, "fibroglandular volume_error_percent": 0.0,
    }  # fmt: skip
    assert len(measured) == 9


def test_a_gland_that_is_half_missed(truth):
    found = truth.voxels.copy()
    found[10:12, 8:12] = 1
    measured = tissue_agreement(truth.with_voxels(found), truth)
    assert measured["fibroglandular recall"] == 0.5
    assert measured["fibroglandular dice"] == pytest.approx(2 / 3)
    assert measured["fibroglandular volume_error_percent"] == 50
    assert measured["fibroglandular hd95_mm"] == pytest.approx(2.0)
    assert measured["background recall"] == 1
    assert measured["mean dice"] == pytest.approx((measured["fat dice"] + 2 / 3) / 2)


def test_a_patient_without_gland_has_no_gland_figures(truth):
    fat_only = truth.with_voxels(np.minimum(truth.voxels, 1))
    measured = tissue_agreement(fat_only, fat_only)
    assert math.isnan(measured["fibroglandular dice"])
    assert math.isnan(measured["fibroglandular volume_error_percent"])
    assert measured["mean dice"] == 1
