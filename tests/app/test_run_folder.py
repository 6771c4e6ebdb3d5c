"""What of a training is kept, and when another one goes on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from lib.trainers.run_folder import RunFolder, data_digest

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError

IDENTITY = {"options": {"seed": 1}, "data": "abc"}


@pytest.fixture
def stopped(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.begin(IDENTITY) is False
    (folder.path / "checkpoint.pt").write_text("half-way")
    folder.counterfactuals.mkdir()
    return folder


def test_the_same_training_goes_on(stopped):
    partial = stopped.path / ".part-x"
    partial.mkdir()
    assert stopped.begin(IDENTITY) is True
    assert stopped.counterfactuals.is_dir()
    assert not partial.exists()


@pytest.mark.parametrize("identity", [{**IDENTITY, "data": "other"}, {**IDENTITY, "options": {"seed": 2}}, {}])
def test_another_training_never_takes_over_its_checkpoint(stopped, identity):
    assert stopped.begin(identity) is False
    assert not stopped.has_checkpoint
    assert not stopped.counterfactuals.exists()


def test_a_training_that_is_to_begin_anew_does(stopped):
    assert stopped.begin(IDENTITY, resume=False) is False
    assert not stopped.has_checkpoint


def test_a_training_killed_before_its_first_checkpoint_just_begins(stopped):
    stopped.drop_checkpoint()
    assert stopped.begin(IDENTITY) is False


def test_a_damaged_note_of_what_the_training_was_means_another_training(stopped):
    (stopped.path / "run.json").write_text("{")
    assert stopped.begin(IDENTITY) is False
    assert not stopped.has_checkpoint


def test_a_finished_training_keeps_its_model_and_is_not_gone_on_with(stopped):
    stopped.model.mkdir()
    (stopped.model / "model.json").write_text(json.dumps({"sha256": "f00"}))
    assert stopped.candidate() is None
    stopped.finish({"candidate": 0.7})
    assert (stopped.candidate()["sha256"], stopped.candidate()["comparison"]) == ("f00", {"candidate": 0.7})
    assert not stopped.has_checkpoint
    assert not stopped.counterfactuals.exists()
    stopped.begin(IDENTITY)
    assert stopped.candidate() is None
    assert not stopped.model.exists()


def test_a_folder_is_that_of_one_training_until_it_ends(stopped):
    code = f"""
from pathlib import Path
from lib.trainers.run_folder import RunFolder
with RunFolder(Path({str(stopped.path)!r})).held():
    print("held", flush=True)
    input()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code], text=True, env=environment, **pipes)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RequestError, match="Another training") as refused, stopped.held():
        pass
    assert str(stopped.path) not in str(refused.value)
    other.kill()
    other.communicate()
    with stopped.held():
        assert stopped.begin(IDENTITY) is True


def test_the_digest_of_the_data_follows_images_sidecars_and_labels(tmp_path):
    files = [tmp_path / name for name in ("a.nii.gz", "a.json", "labels.nii.gz", "lesion.nii.gz")]
    for file in files:
        file.write_text("1")
    studies = [Study("a", files[0], files[2], lesion_path=files[3])]
    seen = {data_digest(studies), data_digest([Study("a", files[0])]), data_digest([*studies, Study("b", files[0])])}
    for file in files:
        os.utime(file, ns=(0, 0))
        seen.add(data_digest(studies))
    assert len(seen) == 7
    assert data_digest(studies) == data_digest(list(studies))


def test_the_digest_of_a_dicom_folder_follows_its_files(tmp_path):
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").write_text("1")
    before = data_digest([Study("a", tmp_path / "dicom")])
    (tmp_path / "dicom" / "2.dcm").write_text("2")
    assert data_digest([Study("a", tmp_path / "dicom")]) != before
