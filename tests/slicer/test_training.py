import json

import pytest
from CounterfactualMRILib import problems
from CounterfactualMRILib.client import Client, Timeouts
from CounterfactualMRILib.problems import Cancelled, ServerProblem
from CounterfactualMRILib.training import Training
from scripted_server import Answer

RUNNING = {"state": "running", "epoch": 1, "epochs": 2, "loss": 0.5, "metric": 0.25, "eta_s": 7}


def trainScript(*progress):
    return {
        ("POST", "/train/tissue_segmenter"): Answer(body={"id": "1"}),
        ("GET", "/train/progress/tissue_segmenter"): [Answer(body=state) for state in progress],
        ("DELETE", "/train/"): Answer(body={}),
    }


def training(server):
    return Training(Client(server.address, timeouts=Timeouts(poll=0.01)), "tissue_segmenter")


def test_it_reports_until_done(scripted):
    server = scripted(
        trainScript({"state": "preparing", "message": "Reading studies"}, RUNNING, {**RUNNING, "state": "done"})
    )
    reports = []
    status = training(server).run({"augmentation": "none"}, lambda *report: reports.append(report))
    assert status.state == "done"
    assert reports[0][2] == "Reading studies"
    assert reports[1][:3] == (1, 2, "Epoch 1 of 2, loss 0.5, best validation 0.25, about 7 s left")
    assert reports[1][3].score == 0.25
    assert json.loads(server.received[0][3]) == {"augmentation": "none"}


def test_a_failure_is_told(scripted):
    with pytest.raises(ServerProblem, match="No labels") as caught:
        training(scripted(trainScript({"state": "failed", "message": "No labels"}))).run({})
    assert caught.value.hint


def test_cancelling_stops_it_on_the_server(scripted):
    server = scripted(trainScript({"state": "running", "epoch": 1, "epochs": 9}))
    with pytest.raises(Cancelled):
        training(server).run({}, isCancelled=lambda: True)
    assert server.received[-1][:2] == ("DELETE", "/train/")


def test_a_report_that_is_none(scripted):
    with pytest.raises(ServerProblem) as caught:
        training(scripted(trainScript({"state": "running", "loss": "small"}))).run({})
    assert caught.value.kind == problems.UNREADABLE
