import dataclasses
import json

import breasts
import numpy as np
import pytest
import torch

from cfmri_core.errors import CheckpointError
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline import acceptance
from cfmri_core.pipeline.acceptance import (
    AnatomyLimits,
    Judges,
    anatomy_measures,
    fit_anatomy_limits,
    judge_edit,
    read_anatomy_limits,
    write_anatomy_limits,
)
from cfmri_core.pipeline.prediction_error import PredictionError
from cfmri_core.pipeline.support import fit_training_support
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
SOURCE = breasts.breast(1)
#: Another contrast of the same anatomy.
RECONTRASTED = SOURCE.with_voxels((40 + 0.6 * SOURCE.voxels).astype(np.float32))


class ThresholdSegmenter(Segmenter):
    """Calls bright fat and middling fibroglandular, so that what it says follows the image."""

    def __init__(self):
        made = Segmenter.create("tiny")
        super().__init__(made.network, dataclasses.replace(made.config, image_size=32))

    def logits(self, images):
        bright, middling = (images > 0.75).float(), ((images > 0.3) & (images <= 0.75)).float()
        return torch.cat([torch.full_like(images, 0.5), bright, middling], dim=1)


def answering(monkeypatch, before, after):
    """Let the predictor answer so for source and result, in turn."""
    answers = iter((before, after))
    monkeypatch.setattr(acceptance, "predict_acquisition", lambda volume, predictor: next(answers))


def read_off(parameters, **other):
    values = parameters.replaced(other).as_dict()
    probabilities = {name: {str(values[name]): 0.99} for name in breasts.SPEC.categories}
    for name, choices in breasts.SPEC.categories.items():
        probabilities[name] = {str(choice): 1e-4 for choice in choices} | probabilities[name]
    return {name: {"value": values[name], "probabilities": probabilities.get(name)} for name in breasts.SPEC.blocks}


def judged(result, requested=SIEMENS, **judges):
    return judge_edit(SOURCE, result, GE, requested, Judges(**judges))


def test_a_change_of_contrast_that_reaches_its_target_is_accepted(monkeypatch):
    answering(monkeypatch, read_off(GE), read_off(SIEMENS))
    found = judged(RECONTRASTED, predictor=breasts.small_predictor(), segmenter=ThresholdSegmenter())
    assert found.reasons == ()
    assert found.verdict == "accepted"
    assert found.measures["structural_share"] < 0.01
    assert found.measures["requested"]["echo_time_ms"] == {"requested": 1.36, "predicted": 1.36}


def test_an_edit_that_reached_nothing_is_refused(monkeypatch):
    answering(monkeypatch, read_off(GE), read_off(GE))
    found = judged(RECONTRASTED, predictor=breasts.small_predictor())
    assert found.verdict == "refused"
    assert (
        "does not show what was asked for: echo_time_ms is predicted as 2.42 ms and requested as 1.36 ms"
        in " ".join(found.reasons)
    )


def test_an_edit_that_reached_some_targets_is_accepted_with_warnings(monkeypatch):
    answering(monkeypatch, read_off(GE), read_off(SIEMENS, echo_time_ms=2.4))
    found = judged(RECONTRASTED, predictor=breasts.small_predictor())
    assert found.verdict == "accepted with warnings"
    assert len(found.reasons) == 1


def test_an_untouched_parameter_that_moved_is_named(monkeypatch):
    answering(monkeypatch, read_off(GE), read_off(GE, echo_time_ms=1.36, repetition_time_ms=4.9, field_strength_t=1.5))
    found = judged(RECONTRASTED, GE.replaced({"echo_time_ms": 1.36}), predictor=breasts.small_predictor())
    assert found.verdict == "accepted with warnings"
    assert [reason.split(" ")[0] for reason in found.reasons] == ["field_strength_t", "repetition_time_ms"]
    assert "from 5.52 to 4.9 ms" in found.reasons[1]


def test_an_untouched_parameter_that_is_now_read_correctly_is_no_fault(monkeypatch):
    answering(monkeypatch, read_off(GE, repetition_time_ms=6.4), read_off(GE, echo_time_ms=1.36))
    found = judged(RECONTRASTED, GE.replaced({"echo_time_ms": 1.36}), predictor=breasts.small_predictor())
    assert found.verdict == "accepted"
    assert found.measures["untouched_moved_by"]["repetition_time_ms"] > 0.05


def test_an_untouched_parameter_may_move_by_as_much_as_the_predictor_errs(monkeypatch):
    error = PredictionError({"slice_thickness_mm": 0.35, "echo_time_ms": 0.15, "scan_options": 0.05}, 10)
    wanted = GE.replaced({"echo_time_ms": 1.36})
    for after, reasons in (({"slice_thickness_mm": 1.7, "flip_angle_deg": 7.0}, 0), ({"slice_thickness_mm": 1.6}, 1)):
        answering(monkeypatch, read_off(GE), read_off(wanted, **after))
        found = judged(RECONTRASTED, wanted, predictor=breasts.small_predictor(), error=error)
        assert len(found.reasons) == reasons
    assert found.measures["untouched_moved_in_limits"]["slice_thickness_mm"] == pytest.approx(0.4 / 0.35)
    assert "flip_angle_deg" not in found.measures["untouched_moved_in_limits"]


def test_a_prediction_that_no_scanner_could_have_is_judged_all_the_same(monkeypatch):
    before = read_off(GE)
    before["slice_thickness_mm"] = {**before["slice_thickness_mm"], "value": -0.2}
    answering(monkeypatch, before, read_off(GE, echo_time_ms=1.36, slice_thickness_mm=1.0))
    found = judged(RECONTRASTED, GE.replaced({"echo_time_ms": 1.36}), predictor=breasts.small_predictor())
    assert found.measures["untouched_moved_in_limits"]["slice_thickness_mm"] > 1


def test_what_the_predictor_cannot_tell_is_left_open(monkeypatch):
    answering(monkeypatch, read_off(GE), read_off(GE))
    error = PredictionError(dict.fromkeys(breasts.SPEC.blocks), 10)
    found = judged(
        RECONTRASTED, GE.replaced({"flip_angle_deg": 12.0}), predictor=breasts.small_predictor(), error=error
    )
    assert found.verdict == "accepted"
    assert "cannot tell flip_angle_deg" in found.unanswered[0]


def test_a_combination_that_the_predictor_never_saw_is_left_open(monkeypatch):
    """On scanners echo time goes with the vendor: a predictor may read it off the vendor's look."""
    alone = GE.replaced({"echo_time_ms": 1.36})
    known = fit_training_support(list(PRESETS.values()) * 6)
    answering(monkeypatch, read_off(GE), read_off(GE, repetition_time_ms=4.0))
    found = judged(RECONTRASTED, alone, predictor=breasts.small_predictor(), trained_on=known)
    assert found.verdict == "accepted"
    assert "no scan with the requested parameters together" in found.unanswered[0]
    assert found.measures["requested"]["echo_time_ms"]["predicted"] == 2.42
    answering(monkeypatch, read_off(GE), read_off(GE))
    assert judged(RECONTRASTED, predictor=breasts.small_predictor(), trained_on=known).verdict == "refused"


def test_without_models_the_anatomy_is_judged_all_the_same():
    found = judged(RECONTRASTED)
    assert found.verdict == "accepted"
    assert len(found.unanswered) == 2


def test_a_lump_that_was_added_is_seen():
    voxels = SOURCE.voxels.copy()
    voxels[5:13, 12:21] = 900.0
    found = judged(SOURCE.with_voxels(voxels))
    assert found.verdict != "accepted"
    assert "no local change of contrast explains" in " ".join(found.reasons)


def test_another_anatomy_is_refused():
    found = judged(breasts.breast(77))
    assert found.verdict == "refused"


def test_tissue_that_changed_its_share_is_named():
    voxels = np.where(SOURCE.voxels > 400, SOURCE.voxels - 180, SOURCE.voxels).astype(np.float32)
    voxels[9, :20] = SOURCE.voxels[9, :20]
    found = judged(SOURCE.with_voxels(voxels), segmenter=ThresholdSegmenter())
    assert "fibroglandular share" in " ".join(found.reasons)
    assert found.verdict == "accepted with warnings"


def test_no_tissue_leaves_the_question_open(monkeypatch):
    monkeypatch.setattr(acceptance, "fibroglandular_share", lambda volume, segmenter: None)
    found = judged(RECONTRASTED, segmenter=ThresholdSegmenter())
    assert any("hardly any breast tissue" in open_question for open_question in found.unanswered)


def test_limits_come_from_the_truth_and_survive_the_model_folder(tmp_path):
    truths = [(breasts.breast(seed), breasts.breast(seed, noise=0.0)) for seed in range(5)]
    limits = fit_anatomy_limits(truths, ThresholdSegmenter())
    assert limits.subjects == 5
    assert 0.3 < limits.agreement < 1
    assert all(anatomy_measures(*pair)["gradient_agreement"] >= limits.agreement - 0.05 for pair in truths)
    assert fit_anatomy_limits([], None) == AnatomyLimits()
    path = write_anatomy_limits(tmp_path, limits, "abc")
    assert read_anatomy_limits(tmp_path, "abc") == limits
    assert read_anatomy_limits(tmp_path / "none", "abc") == AnatomyLimits()
    path.write_text(path.read_text().replace("structural_share", "else"))
    with pytest.raises(CheckpointError):
        read_anatomy_limits(tmp_path, "abc")


@pytest.mark.parametrize("order", [(2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("slices", [6, 1])
def test_the_verdict_does_not_depend_on_which_axis_the_slices_lie_along(order, slices):
    pair = [breasts.breast(1, shape=(36, 36, slices)), breasts.breast(2, shape=(36, 36, slices))]
    turned = [Volume(np.ascontiguousarray(one.voxels.transpose(order)), one.affine[:, [*order, 3]]) for one in pair]
    assert anatomy_measures(*turned) == pytest.approx(anatomy_measures(*pair), abs=1e-6)


def test_slices_that_are_constant_in_the_source_leave_every_question_open():
    empty = SOURCE.with_voxels(np.zeros_like(SOURCE.voxels))
    judges = Judges(predictor=breasts.small_predictor(), segmenter=ThresholdSegmenter())
    for result in (empty, SOURCE):
        found = judge_edit(empty, result, GE, SIEMENS, judges)
        assert (found.verdict, found.reasons) == ("accepted", ())
        assert [said.split(":")[0] for said in found.unanswered] == ["anatomy", "parameters", "tissue"]
    assert judge_edit(SOURCE, empty, GE, SIEMENS, judges).verdict == "refused"


@pytest.mark.parametrize("name", ["structural_share", "tissue_change", "subjects"])
@pytest.mark.parametrize("value", ["0.5", None, -1, True, [1]])
def test_limits_that_are_no_numbers_are_refused(tmp_path, name, value):
    path = write_anatomy_limits(tmp_path, AnatomyLimits(), "abc")
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(CheckpointError, match=r"acceptance\.json"):
        read_anatomy_limits(tmp_path, "abc")


def test_a_volume_without_a_body_is_measured_everywhere():
    flat = Volume(np.full((20, 20, 3), 100.0, np.float32), breasts.AFFINE)
    flat.voxels[0, 0, 0] = 200.0
    assert np.isfinite(anatomy_measures(flat, flat)["structural_share"])
