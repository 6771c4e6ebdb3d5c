"""The score file: one writer, whole or not at all, good for its models and pixels only."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cfmri_server import scores
from cfmri_server.scores import DONE, NONE, RUNNING, ScoreFile, ScoreWriter

MODELS = {"segmenter": "abc", "direct_editor": "def"}


@pytest.fixture
def files(tmp_path):
    found = {name: tmp_path / f"{name}.nii.gz" for name in ("a", "b")}
    for path in found.values():
        path.write_bytes(b"pixels")
    return found


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "_WRITE_EVERY_S", 0)
    return tmp_path / "scores" / "x.json"


def test_progress_is_told_from_nothing_to_done(path, files):
    assert ScoreFile(path).progress()["state"] == NONE
    writer = ScoreWriter(path, MODELS, files)
    assert ScoreFile(path).progress() == {
        "state": RUNNING, "scored": 0, "failed": 0, "images": 2, "eta_s": None, "message": "",
    }  # fmt: skip
    writer.add("a", 0.5)
    writer.add("b", None)
    progress = ScoreFile(path).progress()
    assert (progress["scored"], progress["failed"], progress["eta_s"]) == (1, 1, 0)
    writer.end(DONE)
    assert ScoreFile(path).progress()["state"] == DONE
    assert ScoreFile(path).scores(MODELS, files) == {"a": 0.5}


def test_scores_of_another_model_do_not_count(path, files):
    writer = ScoreWriter(path, MODELS, files)
    writer.add("a", 0.5)
    retrained = {**MODELS, "segmenter": "new"}
    assert ScoreFile(path).scores(retrained, files) == {}
    assert ScoreWriter(path, retrained, files).missing == ["a", "b"]
    assert ScoreFile(path).scores(MODELS, files) == {}


def test_a_score_of_pixels_that_were_replaced_does_not_count(path, files):
    ScoreWriter(path, MODELS, files).add("a", 0.5)
    files["a"].write_bytes(b"other pixels")
    assert ScoreFile(path).scores(MODELS, files) == {}
    assert ScoreWriter(path, MODELS, files).missing == ["a", "b"]


def test_a_scoring_that_was_stopped_goes_on_and_keeps_what_labelled_images_had(path, files):
    ScoreWriter(path, MODELS, files).add("a", 0.5)
    assert ScoreWriter(path, MODELS, files).missing == ["b"]
    ScoreWriter(path, MODELS, {"b": files["b"]}).end(DONE)  # a has a label by now
    assert ScoreFile(path).scores(MODELS, files) == {"a": 0.5}


def test_a_damaged_file_counts_as_none(path, files):
    path.parent.mkdir()
    path.write_text('{"state": "do')
    assert ScoreFile(path).progress()["state"] == NONE
    assert ScoreFile(path).scores(MODELS, files) == {}


def test_what_was_written_before_a_moment_is_told_apart(path, files):
    now = datetime.now()
    assert not ScoreFile(path).written_since(now)
    ScoreWriter(path, MODELS, files)
    assert ScoreFile(path).written_since(now.replace(microsecond=0))
    assert not ScoreFile(path).written_since(now + timedelta(seconds=60))
