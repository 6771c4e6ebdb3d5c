import logging
import time

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import jobs, problems, results
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.logic import CounterfactualMRILogic
from CounterfactualMRILib.problems import ServerProblem
from CounterfactualMRILib.transfer_folder import TransferFolder
from mrml_fixtures import affineOf, makeVolume, niftiBytes, oblique
from scripted_server import Answer, jobScript, multipartAnswer


def resultOf(source, tmp_path, affine=None):
    affine = affineOf(source) if affine is None else affine
    return multipartAnswer(
        {"changes": {"echo_time_ms": 1.4}}, niftiBytes(np.zeros((12, 30, 20), np.float32), affine, tmp_path)
    )


def nodeNames():
    return sorted(node.GetName() or "" for node in slicer.util.getNodesByClass("vtkMRMLNode"))


@pytest.fixture
def folders(monkeypatch):
    """The transfer folders that were made."""
    made = []
    original = TransferFolder.__init__

    def remember(self):
        original(self)
        made.append(self.path)

    monkeypatch.setattr(TransferFolder, "__init__", remember)
    return made


def wait(logic, job, limitS=10):
    deadline = time.monotonic() + limitS
    while logic.isBusy and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.01)
    assert not logic.isBusy
    return job


def test_without_waiting_the_caller_polls(scripted, tmp_path, folders):
    source = makeVolume()
    logic = CounterfactualMRILogic(scripted(jobScript("counterfactual", resultOf(source, tmp_path))).address)
    job = logic.generateCounterfactual(source, {"echo_time_ms": 1.4}, wait=False)
    assert job.state == jobs.RUNNING
    wait(logic, job)
    assert job.state == jobs.DONE
    assert job.result.GetName() == "[synthetic] breast (TE 1.4 ms)"
    checksum = results.checksumOf(slicer.util.arrayFromVolume(source))
    assert job.result.GetAttribute("CounterfactualMRI.SourceChecksum") == checksum
    assert folders
    assert not any(folder.exists() for folder in folders)


def test_header_parameters_are_sent_unless_the_caller_knows_better(scripted, tmp_path, monkeypatch):
    source = makeVolume()
    server = scripted(jobScript("counterfactual", resultOf(source, tmp_path)))
    logic = CounterfactualMRILogic(server.address)
    monkeypatch.setattr("CounterfactualMRILib.logic.readAcquisition", lambda node: {"echo_time_ms": 2.4})
    logic.generateCounterfactual(source, {"echo_time_ms": 1.4, "seed": None})
    assert (
        b'{"echo_time_ms": 1.4, "factual": {"echo_time_ms": 2.4}, "result_extension": ".nii"}' in server.received[1][3]
    )
    server.received.clear()
    logic.generateCounterfactual(source, {"factual": {"echo_time_ms": 3.0}})
    posted = [body for method, _, _, body in server.received if method == "POST"]
    assert b'{"factual": {"echo_time_ms": 3.0}, "result_extension": ".nii"}' in posted[0]


def test_a_result_off_the_grid_leaves_the_scene_unchanged(scripted, tmp_path, folders):
    source = makeVolume()
    answer = resultOf(source, tmp_path, oblique(origin=(0, 0, 0)))
    before = nodeNames()
    with pytest.raises(ExchangeProblem, match="grid"):
        CounterfactualMRILogic(scripted(jobScript("counterfactual", answer)).address).generateCounterfactual(source, {})
    assert nodeNames() == before
    assert not any(folder.exists() for folder in folders)


def test_an_uncertainty_off_the_grid_leaves_the_scene_unchanged(scripted, tmp_path):
    source = makeVolume()
    voxels = np.zeros((12, 30, 20), np.float32)
    image = niftiBytes(voxels, affineOf(source), tmp_path)
    widths = niftiBytes(voxels, oblique(origin=(0, 0, 0)), tmp_path)
    server = scripted(jobScript("counterfactual", multipartAnswer({}, image, uncertainty=widths)))
    before = nodeNames()
    with pytest.raises(ExchangeProblem, match="grid"):
        CounterfactualMRILogic(server.address).generateCounterfactual(source, {"uncertainty": True})
    assert nodeNames() == before


@pytest.mark.parametrize("fault", [Answer(401), Answer(413), Answer(500), Answer(drop=True), Answer(body=b"garbage")])
def test_a_fault_of_the_server_leaves_the_scene_unchanged(scripted, folders, fault):
    source = makeVolume()
    before = nodeNames()
    logic = CounterfactualMRILogic(scripted({("POST", "/jobs/counterfactual"): fault}).address)
    with pytest.raises(ServerProblem):
        logic.generateCounterfactual(source, {})
    assert nodeNames() == before
    assert not any(folder.exists() for folder in folders)


@pytest.mark.flaky(reruns=2)
def test_cancel_is_immediate_and_leaves_nothing(scripted, tmp_path, folders):
    source = makeVolume()
    server = scripted(
        jobScript("counterfactual", resultOf(source, tmp_path), {"state": "running", "step": 1, "steps": 9})
    )
    logic = CounterfactualMRILogic(server.address)
    before = nodeNames()
    job = logic.generateCounterfactual(source, {}, wait=False)
    deadline = time.monotonic() + 60
    while job.steps != 9 and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.01)
    began = time.monotonic()
    job.cancel()
    logic.poll()
    assert job.state == jobs.CANCELLED
    assert time.monotonic() - began < 0.1
    wait(logic, job, 2)
    assert ("DELETE", "/jobs/j1") in [received[:2] for received in server.received]
    assert nodeNames() == before
    assert not any(folder.exists() for folder in folders)


def running(server, folders):
    """A logic whose job runs on the server, and the folder of that job."""
    logic = CounterfactualMRILogic(server.address)
    job = logic.generateCounterfactual(makeVolume(), {}, wait=False)
    deadline = time.monotonic() + 60
    while job.steps != 9 and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.01)
    return logic, folders[-1]


def test_the_upload_is_on_disk_no_longer_than_it_takes_to_send_it(scripted, folders):
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running", "step": 1, "steps": 9}))
    logic, folder = running(server, folders)
    assert list(folder.iterdir()) == []
    logic.end()


@pytest.mark.flaky(reruns=2)
def test_quitting_ends_the_job_on_the_server_and_leaves_no_file(scripted, folders):
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running", "step": 1, "steps": 9}))
    logic, folder = running(server, folders)
    logic.end()
    assert ("DELETE", "/jobs/j1") in [received[:2] for received in server.received]
    assert not folder.exists()
    assert not logic.isBusy


@pytest.mark.flaky(reruns=2)
def test_quitting_does_not_wait_for_a_server_that_hangs(scripted, folders):
    answers = [Answer(body={"state": "running", "step": 1, "steps": 9}), Answer(delayS=5)]
    server = scripted({**jobScript("counterfactual", Answer()), ("GET", "/jobs/j1"): answers})
    logic, _ = running(server, folders)
    time.sleep(0.3)
    began = time.monotonic()
    logic.end()
    assert time.monotonic() - began < 1.5


def test_what_an_earlier_slicer_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "CounterfactualMRI-999999999-abc"
    left.mkdir()
    CounterfactualMRILogic()
    deadline = time.monotonic() + 60
    while left.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left.exists()


def test_source_removed_meanwhile(scripted, tmp_path):
    source = makeVolume()
    logic = CounterfactualMRILogic(scripted(jobScript("counterfactual", resultOf(source, tmp_path))).address)
    job = logic.generateCounterfactual(source, {}, wait=False)
    slicer.mrmlScene.RemoveNode(source)
    wait(logic, job)
    assert job.state == jobs.FAILED
    assert isinstance(job.error, ExchangeProblem)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_what_cannot_be_sent_is_refused_before_anything_happens(scripted, folders):
    server = scripted()
    logic = CounterfactualMRILogic(server.address)
    for task in (lambda node: logic.generateCounterfactual(node, {}), logic.segment, logic.predictParameters):
        with pytest.raises(ExchangeProblem):
            task(None)
    assert server.received == []
    assert not any(folder.exists() for folder in folders)


def test_a_model_that_the_server_lacks(scripted):
    server = scripted({("GET", "/info/"): Answer(body={"models": {"iap_predictor": {"config": {"api_version": 1}}}})})
    with pytest.raises(ServerProblem, match="offers no 'tissue_segmenter'"):
        CounterfactualMRILogic(server.address).segment(makeVolume())


def test_the_server_is_asked_once_until_it_is_changed(scripted, tmp_path):
    source = makeVolume()
    server = scripted(jobScript("counterfactual", resultOf(source, tmp_path)))
    logic = CounterfactualMRILogic(server.address)
    assert logic.server is None
    assert logic.connectToServer().models
    logic.generateCounterfactual(source, {})
    assert [path for _, path, _, _ in server.received].count("/info/") == 1
    logic.setServer("nonsense address")
    assert logic.server is None
    with pytest.raises(ServerProblem) as caught:
        logic.connectToServer()
    assert caught.value.kind == problems.ADDRESS


def test_problems_of_users_are_not_logged_as_failures(scripted, caplog):
    caplog.set_level(logging.ERROR)
    with pytest.raises(ServerProblem):
        CounterfactualMRILogic(scripted({("GET", "/info/"): Answer(401)}).address).connectToServer()
    assert caplog.text == ""
