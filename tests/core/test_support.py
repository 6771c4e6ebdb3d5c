import json

import numpy as np
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.pipeline.support import (
    TrainingSupport,
    Verdict,
    fit_training_support,
    range_verdict,
    read_training_support,
    support_warnings,
    worst,
    write_training_support,
)
from cfmri_core.simulation.protocols import PRESETS, draw_protocol

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def support():
    rng = np.random.default_rng(0)
    return fit_training_support([draw_protocol(rng) for _ in range(400)])


def test_the_protocols_of_the_training_set_are_inside(support):
    assert {support.judge(preset).verdict for preset in PRESETS.values()} == {"inside"}


def test_at_most_two_in_a_hundred_training_like_subjects_are_outside(support):
    rng = np.random.default_rng(1)
    verdicts = [support.judge(draw_protocol(rng)).verdict for _ in range(1000)]
    assert verdicts.count("outside") <= 20
    assert verdicts.count("inside") >= 930


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"echo_time_ms": SIEMENS.echo_time_ms}, "echo_time_ms: 1.36 ms"),
        ({"echo_time_ms": 4.0}, "echo_time_ms: 4 ms"),
        ({"flip_angle_deg": 15.0}, "flip_angle_deg: 15 deg"),
        ({"slice_thickness_mm": 4.0}, "slice_thickness_mm: 4 mm"),
        ({"scan_options": SIEMENS.scan_options}, "combination 3.0, SIGNA HDx, PFP+FS"),
        ({"manufacturer_model": "Ingenia"}, "manufacturer_model 'Ingenia'"),
        ({"field_strength_t": 7.0}, "field_strength_t '7.0'"),
    ],
)
def test_what_never_occurred_together_is_outside_and_named(support, changes, named):
    verdict = support.judge(GE.replaced(changes), "requested")
    assert verdict.verdict == "outside"
    assert named in verdict.reasons[0]
    assert "requested" in verdict.reasons[0]


def test_between_usual_and_never_is_marginal(support):
    verdict = support.judge(GE.replaced({"flip_angle_deg": 12.0}))
    assert verdict.verdict == "marginal"
    assert "flip_angle_deg" in verdict.reasons[0]


def test_a_constant_parameter_does_not_make_the_others_infinite():
    rng = np.random.default_rng(2)
    training = [draw_protocol(rng).replaced({"flip_angle_deg": 10.0}) for _ in range(200)]
    constant = fit_training_support(training)
    assert constant.judge(GE).verdict == "inside"
    assert constant.judge(GE.replaced({"flip_angle_deg": 10.1})).verdict == "inside"
    assert constant.judge(GE.replaced({"flip_angle_deg": 20.0})).verdict == "outside"


def test_unknown_parameters_are_left_out_and_said(support):
    verdict = support.judge(GE.replaced({"echo_time_ms": None, "manufacturer_model": None}))
    assert verdict.verdict == "marginal"
    assert "manufacturer_model, echo_time_ms are unknown" in " ".join(verdict.reasons)
    assert support.judge(GE.replaced({"scan_options": None, "echo_time_ms": 9.0})).verdict == "outside"
    assert support.judge(AcquisitionParameters()).verdict == "marginal"


def test_few_subjects_are_counted_but_neither_summed_up_nor_believed():
    support = fit_training_support([GE] * 6 + [SIEMENS] * 2)
    rare = next(cell for cell in support.cells if cell.subjects == 2)
    assert rare.mean is None
    assert rare.covariance is None
    verdict = support.judge(SIEMENS)
    assert verdict.verdict == "marginal"
    assert "too few training subjects (2)" in verdict.reasons[0]
    assert fit_training_support([GE]).judge(GE).verdict == "marginal"
    assert fit_training_support([]).judge(GE).verdict == "marginal"


def test_statistics_survive_the_model_folder_and_hold_no_subjects(support, tmp_path):
    path = write_training_support(tmp_path, support, "abc")
    assert read_training_support(tmp_path, "abc") == support
    assert read_training_support(tmp_path / "none", "abc") is None
    content = json.loads(path.read_text())["acquisition"]
    assert set(content) == {"scales", "cells", "whole"}
    assert TrainingSupport.from_json(content) == support
    path.write_text(json.dumps({"format_version": 1, "model_sha256": "abc", "acquisition": {"cells": []}}))
    with pytest.raises(CheckpointError, match="statistics"):
        read_training_support(tmp_path, "abc")


def test_the_worst_verdict_counts_and_every_reason_is_kept_once():
    verdict = worst([Verdict("marginal", ("a",)), Verdict("outside", ("b", "a")), Verdict()])
    assert verdict == Verdict("outside", ("a", "b"))
    assert worst([]) == Verdict()


def test_inside_the_training_support_there_is_nothing_to_say():
    assert support_warnings(GE, SIEMENS, SPEC) == []


def test_a_source_outside_is_named_with_value_and_range():
    (warning,) = support_warnings(GE.replaced({"echo_time_ms": 2.93}), GE.replaced({"echo_time_ms": 1.4}), SPEC)
    assert "source value 2.93 ms" in warning
    assert "1.36 to 2.54 ms" in warning


def test_an_unknown_scanner_is_named_once_if_it_stays():
    head = GE.replaced({"manufacturer_model": "Ingenia Elition X"})
    assert len(support_warnings(head, head, SPEC)) == 1


def test_a_requested_value_outside_is_named():
    (warning,) = support_warnings(GE, GE.replaced({"repetition_time_ms": 400.0}), SPEC)
    assert "requested value 400 ms" in warning


def test_unknown_values_are_said_to_be_unconditioned():
    assert len(support_warnings(AcquisitionParameters(), AcquisitionParameters(), SPEC)) == len(SPEC.blocks)


def test_without_statistics_each_parameter_is_judged_alone():
    assert range_verdict(GE.replaced({"echo_time_ms": SIEMENS.echo_time_ms}), SPEC, "source").verdict == "inside"
    assert range_verdict(GE.replaced({"echo_time_ms": 9.0}), SPEC, "source").verdict == "outside"
    assert range_verdict(GE.replaced({"echo_time_ms": None}), SPEC, "source").verdict == "marginal"
