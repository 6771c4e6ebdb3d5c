import json

import breasts
import pytest

from cfmri_core.models.conditioning import ATTRIBUTES
from cfmri_core.pipeline.prediction_error import PredictionError, difference, fit_prediction_error
from cfmri_core.simulation.protocols import PRESETS

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
ERROR = PredictionError(
    {"echo_time_ms": 0.1, "repetition_time_ms": None, "manufacturer_model": 0.05, "field_strength_t": 0.05}, 20
)


def predicted(echo_time_ms=2.42, model="SIGNA HDx", probability=0.98):
    others = dict.fromkeys(("Avanto", "TrioTim", "Signa HDxt", "Optima MR450w"), (1 - probability) / 4)
    return {
        "echo_time_ms": {"value": echo_time_ms, "probabilities": None},
        "repetition_time_ms": {"value": 9.0, "probabilities": None},
        "manufacturer_model": {"value": model, "probabilities": {**others, model: probability}},
    }


def test_a_header_that_agrees_is_inside():
    assert ERROR.judge_header(predicted(), GE).verdict == "inside"


@pytest.mark.parametrize(
    ("given", "verdict", "named"),
    [
        ({"echo_time_ms": 2.55}, "marginal", "echo_time_ms is predicted as 2.55 ms and stated as 2.42 ms"),
        ({"echo_time_ms": 1.4}, "outside", "echo_time_ms is predicted as 1.4 ms and stated as 2.42 ms"),
        (
            {"model": "Avanto", "probability": 0.9999},
            "outside",
            "manufacturer_model is predicted as 'Avanto' and stated as 'SIGNA HDx'",
        ),
    ],
)
def test_a_header_at_odds_is_named_with_both_values(given, verdict, named):
    if given.get("model") == "Avanto":
        values = predicted(model="Avanto", probability=0.9999)
        values["manufacturer_model"]["probabilities"]["SIGNA HDx"] = 1e-5
    else:
        values = predicted(**given)
    found = ERROR.judge_header(values, GE)
    assert found.verdict == verdict
    assert named in found.reasons[0]


def test_what_cannot_be_told_is_not_judged():
    ratios = ERROR.ratios(predicted(), GE.replaced({"manufacturer_model": "Ingenia"}), ATTRIBUTES)
    assert set(ratios) == {"echo_time_ms"}
    assert ERROR.ratios(predicted(), GE.replaced({"echo_time_ms": None}), ["echo_time_ms"]) == {}


def test_limits_follow_the_errors_of_held_back_subjects(monkeypatch):
    """A predictor that is right within 0.01 ms about the echo time and says the same flip angle to everyone."""
    slices, predictor = breasts.slice_set(range(48)), breasts.small_predictor()
    answers = iter(slices.parameters)

    def summary(self, outputs):
        truth = next(answers)
        return {
            "flip_angle_deg": {"value": 9.0, "probabilities": None},
            "slice_thickness_mm": {"value": truth.slice_thickness_mm, "probabilities": None},
            "echo_time_ms": {"value": truth.echo_time_ms + 0.01, "probabilities": None},
            "repetition_time_ms": {"value": 1.0, "probabilities": None},
            "manufacturer_model": {"probabilities": {truth.manufacturer_model: 0.999}},
            "field_strength_t": {"probabilities": {str(truth.field_strength_t): 0.6}},
            "scan_options": {"probabilities": {truth.scan_options: 0.01}},
        }

    monkeypatch.setattr(type(predictor), "summary", summary)
    error = fit_prediction_error(slices, predictor)
    assert error.subjects == 48
    assert error.limits["flip_angle_deg"] is None
    assert error.limits["repetition_time_ms"] is None
    assert 0.01 < error.limits["echo_time_ms"] < 0.3
    assert 1e-4 < error.limits["manufacturer_model"] < 0.05
    assert error.limits["scan_options"] < 1e-5


def test_the_errors_of_an_untrained_predictor_forbid_no_header():
    slices, predictor = breasts.slice_set(range(10)), breasts.small_predictor()
    error = fit_prediction_error(slices, predictor)
    assert all(error.limits[name] is None for name in breasts.SPEC.ranges)
    assert PredictionError.from_json(json.loads(json.dumps(error.to_json()))) == error


def test_without_a_calibration_a_quarter_of_the_range_is_allowed():
    error = PredictionError.uncalibrated(breasts.SPEC)
    low, high = breasts.SPEC.ranges["echo_time_ms"]
    assert error.limits["echo_time_ms"] == pytest.approx((high - low) / 4)
    assert error.limits["flip_angle_deg"] is None
    assert error.subjects == 0


def test_a_difference_is_said_with_units():
    assert difference("echo_time_ms", predicted(1.4), GE) == "echo_time_ms is predicted as 1.4 ms and stated as 2.42 ms"
