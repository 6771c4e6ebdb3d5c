import time

import numpy as np
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.active_learning.coverage import distances_to_nearest
from cfmri_core.simulation.protocols import PRESETS

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


def acquisition_distance(first, second):
    (distance,) = distances_to_nearest([first], [second])
    return distance


def test_a_distance_is_symmetric_and_zero_to_itself():
    assert acquisition_distance(GE, GE) == 0
    assert acquisition_distance(GE, SIEMENS) == acquisition_distance(SIEMENS, GE) > 0.5


def test_categories_count_whole_and_numbers_by_their_share_of_the_range():
    assert acquisition_distance(GE, GE.replaced({"field_strength_t": 1.5})) == pytest.approx(1 / 8)
    moved = GE.replaced({"repetition_time_ms": GE.repetition_time_ms + 0.386})  # a tenth of 3.54 to 7.40
    assert acquisition_distance(GE, moved) == pytest.approx(0.1 / 8)
    assert acquisition_distance(GE, GE.replaced({"echo_time_ms": 80.0})) == pytest.approx(1 / 8)


def test_what_is_unknown_is_neither_near_nor_far():
    unknown = AcquisitionParameters()
    assert acquisition_distance(unknown, unknown) == 0
    assert acquisition_distance(GE, unknown) == 0.5


def test_the_nearest_labelled_case_counts():
    like_ge = GE.replaced({"flip_angle_deg": 12.0})
    values = distances_to_nearest([like_ge, SIEMENS], [GE, SIEMENS])
    np.testing.assert_allclose(values, [2 / 5 / 8, 0])
    np.testing.assert_array_equal(distances_to_nearest([GE, SIEMENS], []), [1, 1])


def test_what_is_unknown_counts_alike_among_many_cases():
    cases = [GE, AcquisitionParameters(), GE.replaced({"manufacturer": None, "echo_time_ms": None})]
    np.testing.assert_array_equal(distances_to_nearest(cases, [GE]), [0, 0.5, 1 / 8])
    np.testing.assert_array_equal(distances_to_nearest(cases, [AcquisitionParameters()]), [0.5, 0, 3 / 8])


def test_a_full_datastore_is_compared_at_once():
    cases = [GE.replaced({"echo_time_ms": 1 + number / 1000}) for number in range(3000)]
    started_s = time.thread_time()
    values = distances_to_nearest(cases[1::2], cases[::2])
    assert time.thread_time() - started_s < 3  # pair by pair it takes over half a minute
    np.testing.assert_allclose(values, values[0])
