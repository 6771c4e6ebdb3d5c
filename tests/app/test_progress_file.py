"""What a training tells about itself."""

from __future__ import annotations

import json

import pytest
from lib.trainers import progress_file
from lib.trainers.progress_file import STEPS_PER_EPOCH, ProgressFile


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "_WRITE_EVERY_S", 0)
    return ProgressFile(tmp_path / "progress.json", "tissue_segmenter", 3)


def content(report):
    return json.loads(report.path.read_text())


def test_it_is_there_from_the_start(report):
    assert content(report)["state"] == "preparing"
    assert content(report)["epochs"] == 3


def test_reading_studies_names_no_subject(report):
    report(1, 4, "Doe^John")
    assert content(report)["message"] == "Reading studies, 1 of 4"


def test_steps_become_epochs_loss_metric_and_time_left(report):
    total = 3 * STEPS_PER_EPOCH
    report(1, total, "loss 0.9000, best inf, 60 s left")
    assert content(report) | {"eta_s": None} == {
        "model": "tissue_segmenter", "state": "running", "epoch": 1, "epochs": 3, "loss": 0.9, "metric": None,
        "eta_s": None, "message": "loss 0.9000, best inf, 60 s left",
    }  # fmt: skip
    report(STEPS_PER_EPOCH + 1, total, "loss 0.5, best 0.25, 30 s left")
    after = content(report)
    assert (after["epoch"], after["loss"], after["metric"]) == (2, 0.5, 0.25)
    assert after["eta_s"] >= 0


def test_it_ends_as_done_or_failed(report):
    report.end("failed", "No labelled study.")
    assert (content(report)["state"], content(report)["message"]) == ("failed", "No labelled study.")
    report.end("done")
    assert content(report)["eta_s"] == 0
