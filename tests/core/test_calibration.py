import math

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.calibration import Calibration, conformal_half_width, fit_calibration, fit_line, fit_temperature
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec

LEFT = AcquisitionParameters(
    manufacturer_model="Avanto", field_strength_t=1.5, scan_options="FS", flip_angle_deg=8, slice_thickness_mm=1.0,
    echo_time_ms=1.4, repetition_time_ms=4.0,
)  # fmt: skip
RIGHT = AcquisitionParameters(
    manufacturer_model="SIGNA HDx", field_strength_t=3.0, scan_options="PFP", flip_angle_deg=12, slice_thickness_mm=2.0,
    echo_time_ms=2.4, repetition_time_ms=6.0,
)  # fmt: skip
SPEC = ConditionSpec.from_parameters([LEFT, RIGHT])
GENERATOR = torch.Generator().manual_seed(0)


def drawn(logits):
    """One category per row, with the probabilities that the logits claim."""
    return torch.multinomial(logits.softmax(1), 1, generator=GENERATOR)[:, 0]


def test_temperature_undoes_overconfidence():
    honest = torch.randn(4000, 3, generator=GENERATOR, dtype=torch.float64)
    temperature = fit_temperature(2.5 * honest, drawn(honest), torch.zeros(3))
    assert temperature == pytest.approx(2.5, rel=0.1)


def test_class_weights_of_training_are_taken_off_again():
    honest = torch.randn(4000, 2, generator=GENERATOR, dtype=torch.float64)
    shift = torch.tensor([math.log(4.0), 0.0], dtype=torch.float64)
    truth = drawn(honest)
    temperature = fit_temperature(honest + shift, truth, shift)
    assert temperature == pytest.approx(1, rel=0.1)
    calibration = Calibration({"scan_options": temperature}, {"scan_options": tuple(shift.tolist())})
    claimed = calibration.probabilities("scan_options", honest + shift)[:, 0].mean()
    assert float(claimed) == pytest.approx(float((truth == 0).double().mean()), abs=0.03)


def test_a_few_volumes_that_are_all_right_do_not_make_certain():
    logits, truth = torch.tensor([[3.0, 0.0]] * 5).double(), torch.zeros(5, dtype=torch.long)
    temperature = fit_temperature(logits, truth, torch.zeros(2))
    assert float((logits / temperature).softmax(1)[0, 0]) == pytest.approx(6 / 7, abs=0.01)


def test_a_single_category_needs_no_temperature():
    assert fit_temperature(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), torch.zeros(1)) == 1


def test_interval_covers_new_volumes():
    errors = torch.randn(20000, generator=GENERATOR).abs()
    half = conformal_half_width(errors[:10000])
    assert float((errors[10000:] <= half).double().mean()) == pytest.approx(0.9, abs=0.02)
    assert conformal_half_width(torch.arange(1.0, 10.0)) == 9
    assert conformal_half_width(torch.tensor([1.0, 1.0])) == pytest.approx(1.645)


def test_fit_leaves_out_what_is_unknown_and_gives_errors_in_units():
    targets = SPEC.encode_all([LEFT, RIGHT] * 10)
    keep = torch.ones(20, len(ATTRIBUTES), dtype=torch.bool)
    keep[:, ATTRIBUTES.index("scan_options")] = False
    keep[10:, ATTRIBUTES.index("echo_time_ms")] = False
    outputs = {name: torch.randn(20, 2, generator=GENERATOR) for name in SPEC.categories}
    for name in SPEC.ranges:
        outputs[name] = targets[:, SPEC.blocks[name].start + 1] + 0.5
    outputs["echo_time_ms"][10:] = 100.0
    outputs["repetition_time_ms"][::2] += 0.4
    weights = {"field_strength_t": torch.tensor([2.0, 0.0])}
    fitted = fit_calibration(SPEC, outputs, SPEC.drop_attributes(targets, keep), weights)
    assert set(fitted.temperatures) == {"field_strength_t", "manufacturer_model"}
    assert fitted.log_weights["field_strength_t"] == pytest.approx((math.log(2), 0))
    assert fitted.standard_deviations["echo_time_ms"] == pytest.approx(0.25)
    assert fitted.lines["echo_time_ms"] == (0.0, 1.0)  # too few volumes for a line
    assert fitted.lines["repetition_time_ms"] == pytest.approx((-0.7 / 0.8, 1 / 0.8), rel=1e-4)
    assert fitted.standard_deviations["repetition_time_ms"] == pytest.approx(0, abs=1e-4)
    assert fitted.half_widths["flip_angle_deg"] == pytest.approx(0, abs=1e-4)


def test_a_value_that_the_image_does_not_tell_stays_near_the_usual_one():
    truth, values = torch.randn(2000, generator=GENERATOR), torch.randn(2000, generator=GENERATOR)
    offset, slope = fit_line(values, truth + 3)
    assert (offset, slope) == pytest.approx((3, 0), abs=0.1)
    assert fit_line(2 * truth, truth)[1] == pytest.approx(0.5)
    assert fit_line(-truth, truth)[1] == 0
    assert fit_line(torch.ones(30), truth[:30]) == fit_line(truth[:5], truth[:5]) == (0, 1)


def test_json_there_and_back_and_nothing_fitted():
    full = Calibration(
        {"scan_options": 1.5}, {"scan_options": (0.5, -0.5)}, {"echo_time_ms": (0.1, 0.9)}, {}, {"echo_time_ms": 0.2}
    )
    assert Calibration.from_json(full.to_json()) == full
    assert full.corrected("echo_time_ms", 1.0) == pytest.approx(1.0)
    assert full.corrected("flip_angle_deg", 0.3) == 0.3
    assert full.interval("echo_time_ms", 2.0) == pytest.approx((1.8, 2.2))
    assert Calibration().interval("echo_time_ms", 2.0) is None
    assert Calibration().probabilities("scan_options", torch.tensor([0.0, 0.0])).tolist() == [0.5, 0.5]
