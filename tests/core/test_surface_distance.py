import math

import numpy as np
import pytest

from cfmri_core.errors import GeometryError
from cfmri_core.evaluation.surface_distance import hausdorff_distance_mm

SPACING_MM = (1.0, 2.0, 3.0)


def block(first, shape=(20, 20, 12), size=6):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(start, start + size) for start in first)] = True
    return mask


def test_equal_objects_have_no_distance():
    assert hausdorff_distance_mm(block((2, 2, 2)), block((2, 2, 2)), SPACING_MM) == 0


@pytest.mark.parametrize(("shift", "expected"), [((2, 0, 0), 2), ((0, 2, 0), 4), ((0, 0, 2), 6)])
def test_a_shift_is_measured_in_millimetres(shift, expected):
    moved = block(tuple(2 + step for step in shift))
    assert hausdorff_distance_mm(block((2, 2, 2)), moved, SPACING_MM, percentile=100) == pytest.approx(expected)
    assert hausdorff_distance_mm(moved, block((2, 2, 2)), SPACING_MM, percentile=100) == pytest.approx(expected)


def test_a_stray_voxel_counts_in_the_maximum_only():
    stray = block((2, 2, 2))
    stray[19, 19, 11] = True
    truth = block((2, 2, 2))
    assert hausdorff_distance_mm(stray, truth, SPACING_MM) == 0
    assert hausdorff_distance_mm(stray, truth, SPACING_MM, percentile=100) > 20


def test_agrees_with_monai():
    import torch
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(0)
    a, b = block((2, 3, 2)), block((4, 2, 3))
    a[5:9, 9:12, 3:6] |= rng.random((4, 3, 3)) > 0.3
    theirs = compute_hausdorff_distance(
        torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None], True, percentile=95, spacing=SPACING_MM
    )
    assert hausdorff_distance_mm(a, b, SPACING_MM) == pytest.approx(float(theirs), abs=0.5)


def test_nothing_to_measure_is_not_a_number():
    empty = np.zeros((20, 20, 12), dtype=bool)
    assert math.isnan(hausdorff_distance_mm(empty, block((2, 2, 2)), SPACING_MM))
    assert math.isnan(hausdorff_distance_mm(block((2, 2, 2)), empty, SPACING_MM))
    assert math.isnan(hausdorff_distance_mm(empty, empty, SPACING_MM))
    with pytest.raises(GeometryError, match="cannot be compared"):
        hausdorff_distance_mm(empty, block((0, 0, 0), shape=(9, 9, 9)), SPACING_MM)
