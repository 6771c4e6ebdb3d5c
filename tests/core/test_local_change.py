"""Changes of part of a scan."""

import numpy as np
import pytest

from cfmri_core.pipeline.local_change import with_local_change

INSIDE = np.array([True, True, False])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ([10, 20, 30], [11, 0, 30]),  # whole numbers stay whole, and none falls below zero
        ([10.5, 20, 30], [11.9, 0, 30]),
        ([-5, 20, 30], [-4, -5, 30]),  # where the source has negative values, as low ones may arise
    ],
)
def test_a_change_stays_inside_and_in_the_range_of_the_source(source, expected):
    voxels = with_local_change(np.array(source), np.array([1.4, -50, 7]), INSIDE)
    assert voxels.dtype == np.float32
    assert voxels == pytest.approx(expected)
