"""What a training tells about itself."""

from __future__ import annotations

import json

import pytest
from lib.trainers import progress_file
from lib.trainers.progress_file import STEPS_PER_EPOCH, ProgressFile, read_progress

from cfmri_core.progress import TrainingStep
from cfmri_core.training.counterfactuals import MAKING_COUNTERFACTUALS

TOTAL = 3 * STEPS_PER_EPOCH


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "_WRITE_EVERY_S", 0)
    return ProgressFile(tmp_path / "progress.json", "tissue_segmenter", 3)


def content(report):
    return json.loads(report.path.read_text())


def told(loss, best=None, kept=0):
    return TrainingStep("one step", loss=loss, best_score=best, kept_step=kept)


def test_it_is_there_from_the_start(report):
    assert content(report)["state"] == "preparing"
    assert content(report)["epochs"] == 3


def test_reading_studies_names_no_subject(report):
    report(1, 4, "Doe^John")
    assert content(report)["message"] == "Reading studies, 1 of 4"
    report(1, 4, "loss 0.5, best 0.2 counterfactual")
    assert content(report)["message"] == "Reading studies, 1 of 4"
    report(2, 4, MAKING_COUNTERFACTUALS)
    assert content(report)["message"] == "Making counterfactuals, 2 of 4"


def test_steps_become_epochs_loss_metric_and_time_left(report):
    report(1, TOTAL, told(0.9))
    assert content(report) | {"eta_s": None} == {
        "model": "tissue_segmenter", "state": "running", "epoch": 1, "epochs": 3, "loss": 0.9, "metric": None,
        "eta_s": None, "message": "one step", "kept_epoch": 0, "curve": [[1, 0.9, None]], "published": None,
        "comparison": None,
    }  # fmt: skip
    report(STEPS_PER_EPOCH + 1, TOTAL, told(0.5, 0.25, STEPS_PER_EPOCH))
    after = content(report)
    assert (after["epoch"], after["loss"], after["metric"], after["kept_epoch"]) == (2, 0.5, 0.25, 1)
    assert after["eta_s"] >= 0


def test_the_curve_has_one_row_per_epoch_with_its_mean_loss(report):
    for step in range(1, TOTAL + 1):
        report(step, TOTAL, told(float(step), 0.5))
    assert content(report)["curve"] == [[1, 10.5, 0.5], [2, 30.5, 0.5], [3, 50.5, 0.5]]


def test_a_training_that_goes_on_keeps_the_curve_up_to_there(report):
    for step in range(1, TOTAL):
        report(step, TOTAL, told(float(step)))
    again = ProgressFile(report.path, "tissue_segmenter", 3, goes_on=True)
    assert len(content(again)["curve"]) == 3
    again(STEPS_PER_EPOCH, TOTAL, told(None, kept=STEPS_PER_EPOCH))
    again(STEPS_PER_EPOCH + 1, TOTAL, told(7.0))
    assert content(again)["curve"] == [[1, 10.5, None], [2, 7.0, None]]
    assert content(ProgressFile(report.path, "tissue_segmenter", 3))["curve"] == []


def test_numbers_that_are_none_are_null_in_the_file(report):
    report(1, TOTAL, told(float("nan"), float("inf")))
    assert (content(report)["loss"], content(report)["metric"]) == (None, None)


def test_it_ends_as_done_or_failed(report):
    report.end("failed", "No labelled study.")
    assert (content(report)["state"], content(report)["message"]) == ("failed", "No labelled study.")
    report.end("done", "Published", published=True, comparison={"candidate": 0.8})
    assert content(report)["eta_s"] == 0
    assert content(report)["published"] is True
    assert content(report)["comparison"] == {"candidate": 0.8}


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_damaged_file_is_no_training(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    assert read_progress(tmp_path / "progress.json")["state"] == "none"
