import json

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import AcquisitionError
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec

AVANTO = AcquisitionParameters(
    manufacturer="SIEMENS", manufacturer_model="Avanto", field_strength_t=1.5, scan_options=r"PFP\FS",
    flip_angle_deg=10, slice_thickness_mm=1.0, echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip
SIGNA = AcquisitionParameters(
    manufacturer="GE", manufacturer_model="SIGNA HDx", field_strength_t=3.0, scan_options=r"SAT_GEMS\FS",
    flip_angle_deg=12, slice_thickness_mm=2.0, echo_time_ms=2.4, repetition_time_ms=6.0,
)  # fmt: skip
SPEC = ConditionSpec.from_parameters([SIGNA, AVANTO, AVANTO])
#: As the code of the paper writes it: categories in no order, continuous values as shares of the largest.
SHARES = ConditionSpec(
    {
        "field_strength_t": (3.0, 1.5),
        "manufacturer_model": ("SIGNA HDx", "Avanto", "TrioTim"),
        "scan_options": (r"SAT_GEMS\FS", r"PFP\FS"),
    },
    {
        "flip_angle_deg": (0, 20),
        "slice_thickness_mm": (0, 2.5),
        "echo_time_ms": (0, 2.8),
        "repetition_time_ms": (0, 8),
    },
    "maximum",
)


def test_categories_are_sorted_and_ranges_run_from_smallest_to_largest():
    assert SPEC.categories["field_strength_t"] == (1.5, 3.0)
    assert SPEC.categories["manufacturer_model"] == ("Avanto", "SIGNA HDx")
    assert SPEC.ranges["echo_time_ms"] == (1.4, 2.4)
    assert SPEC.ranges["flip_angle_deg"] == (10.0, 12.0)


def test_blocks_cover_the_vector_in_the_order_of_the_paper():
    assert tuple(SPEC.blocks) == ATTRIBUTES
    columns = [column for block in SPEC.blocks.values() for column in range(block.start, block.stop)]
    assert columns == list(range(SPEC.width)) == list(range(14))


def test_known_parameters_are_one_hot_and_presence_with_value():
    vector = SPEC.encode(AVANTO)
    assert vector.dtype == torch.float32
    assert vector.tolist() == [1, 0, 1, -1, 1, 0, 1, 0, 1, -1, 1, -1, 1, -1]
    assert SPEC.encode(SIGNA).tolist() == [0, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1]


def test_unknown_parameters_are_the_zero_vector():
    assert not SPEC.encode(AcquisitionParameters()).any()


def test_value_and_category_outside_training():
    outside = SIGNA.replaced({"manufacturer_model": "Vida", "echo_time_ms": 80.0, "repetition_time_ms": 5.5})
    vector = SPEC.encode(outside)
    assert not vector[SPEC.blocks["manufacturer_model"]].any()
    assert vector[SPEC.blocks["echo_time_ms"]].tolist() == [1, 1.5]
    assert vector[SPEC.blocks["repetition_time_ms"]].tolist() == [1, 0.5]


def test_attribute_that_never_varies_still_has_a_direction():
    spec = ConditionSpec.from_parameters([AVANTO])
    angle = spec.blocks["flip_angle_deg"]
    assert spec.encode(AVANTO)[angle].tolist() == [1, 0]
    assert spec.encode(SIGNA)[angle].tolist() == [1, 1.5]


@pytest.mark.parametrize("value", [1.4, 1.9, 2.4])
def test_unit_values_map_back(value):
    assert SPEC.from_unit("echo_time_ms", SPEC.to_unit("echo_time_ms", value)) == pytest.approx(value)


def test_dropped_attributes_become_unknown_and_the_others_stay():
    batch = SPEC.encode_all([AVANTO, SIGNA, SIGNA])
    keep = torch.ones(3, len(ATTRIBUTES), dtype=torch.bool)
    keep[0, ATTRIBUTES.index("echo_time_ms")] = False
    keep[1] = False
    dropped = SPEC.drop_attributes(batch, keep)
    assert torch.equal(dropped[0], SPEC.encode(AVANTO.replaced({"echo_time_ms": None})))
    assert not dropped[1].any()
    assert torch.equal(dropped[2], batch[2])


def test_maximum_scaling_is_one_column_per_number_in_sorted_feature_order():
    assert [block.stop - block.start for block in SHARES.blocks.values()] == [2, 1, 3, 2, 1, 1, 1]
    vector = SHARES.encode(AVANTO)
    assert vector.tolist() == pytest.approx([0, 1, 0.5, 0, 1, 0, 0, 1, 0.4, 0.5, 0.5])
    assert not SHARES.encode(AcquisitionParameters()).any()


def test_maximum_scaling_maps_back_and_is_clamped_above():
    assert SHARES.from_unit("echo_time_ms", SHARES.to_unit("echo_time_ms", 1.4)) == pytest.approx(1.4)
    assert SHARES.to_unit("echo_time_ms", 80.0) == 1.5


def test_dropped_attribute_of_one_column_becomes_unknown():
    keep = torch.ones(1, len(ATTRIBUTES), dtype=torch.bool)
    keep[0, ATTRIBUTES.index("echo_time_ms")] = False
    dropped = SHARES.drop_attributes(SHARES.encode_all([AVANTO]), keep)
    assert torch.equal(dropped[0], SHARES.encode(AVANTO.replaced({"echo_time_ms": None})))


@pytest.mark.parametrize("spec", [SPEC, SHARES])
def test_json_round_trip(spec):
    assert ConditionSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_older_model_folders_without_a_scaling_can_be_read():
    values = SPEC.to_json()
    del values["scaling"]
    assert ConditionSpec.from_json(values) == SPEC


def test_parameter_unknown_in_every_study_is_refused():
    with pytest.raises(AcquisitionError, match="No study has a value for echo_time_ms") as caught:
        ConditionSpec.from_parameters([AVANTO.replaced({"echo_time_ms": None})])
    assert caught.value.field == "echo_time_ms"


@pytest.mark.parametrize(
    ("categories", "ranges"),
    [
        ({}, SPEC.ranges),
        (SPEC.categories, {**SPEC.ranges, "echo_time_ms": (2.0, 1.0)}),
        ({**SPEC.categories, "scan_options": ()}, SPEC.ranges),
        ({**SPEC.categories, "scan_options": ("FS", "FS")}, SPEC.ranges),
    ],
)
def test_impossible_spec_cannot_exist(categories, ranges):
    with pytest.raises(ValueError, match=r"categories|range"):
        ConditionSpec(categories, ranges)


def test_unknown_scaling_and_maximum_of_zero_cannot_exist():
    with pytest.raises(ValueError, match="scaling is 'log'"):
        ConditionSpec(SPEC.categories, SPEC.ranges, "log")
    with pytest.raises(ValueError, match="ends at 0"):
        ConditionSpec(SHARES.categories, {**SHARES.ranges, "echo_time_ms": (0, 0)}, "maximum")
