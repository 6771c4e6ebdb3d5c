import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.training.balance import inverse_class_frequency, inverse_spread

LEFT = AcquisitionParameters(
    manufacturer_model="Avanto", field_strength_t=1.5, scan_options="FS", flip_angle_deg=10, slice_thickness_mm=1.0,
    echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip
RIGHT = AcquisitionParameters(
    manufacturer_model="SIGNA HDx", field_strength_t=3.0, scan_options="PFP", flip_angle_deg=12, slice_thickness_mm=2.0,
    echo_time_ms=2.4, repetition_time_ms=6.0,
)  # fmt: skip
SPEC = ConditionSpec.from_parameters([LEFT, RIGHT])


def test_inverse_class_frequency():
    studies = SPEC.encode_all([LEFT, LEFT, LEFT, RIGHT])
    weights = inverse_class_frequency(SPEC, studies)
    assert set(weights) == set(SPEC.categories)
    assert weights["field_strength_t"].tolist() == pytest.approx([2 / 3, 2.0])
    per_study = studies[:, SPEC.blocks["field_strength_t"]] @ weights["field_strength_t"]
    assert float(per_study.mean()) == pytest.approx(1)


def test_category_that_does_not_occur_has_no_weight():
    assert inverse_class_frequency(SPEC, SPEC.encode_all([LEFT]))["scan_options"].tolist() == [1.0, 0.0]


def test_spread_is_that_of_all_studies_times_that_within_a_scanner():
    echoes = (1.4, 1.5, 2.3, 2.4)
    studies = [base.replaced({"echo_time_ms": t}) for base, t in zip((LEFT, LEFT, RIGHT, RIGHT), echoes, strict=True)]
    targets = SPEC.encode_all(studies)
    overall, within = torch.tensor([-1, -0.8, 0.8, 1]).std(correction=0), 0.1
    assert inverse_spread(SPEC, targets)["echo_time_ms"] == pytest.approx(float(1 / (overall * within)), rel=1e-4)


def test_a_constant_or_unknown_attribute_has_a_finite_weight():
    unknown = LEFT.replaced({"flip_angle_deg": None})
    weights = inverse_spread(SPEC, SPEC.encode_all([unknown, unknown]))
    assert set(weights) == set(SPEC.ranges)
    assert max(weights.values()) == pytest.approx(4000)
