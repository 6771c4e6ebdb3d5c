"""Retraining from the panel, on scripted servers; a real training is in test_live_server.py."""

import json

import pytest
import slicer
from event_loop import connected, until
from scripted_server import Answer

RUNNING = {"state": "running", "epoch": 1, "epochs": 4, "loss": 0.5}


def trainScript(*progress):
    return {
        ("POST", "/train/tissue_segmenter"): Answer(body={}),
        ("GET", "/train/progress/tissue_segmenter"): [Answer(body=state) for state in progress],
        ("DELETE", "/train/"): Answer(body={}),
    }


def rows(panel):
    return panel.training._controls.rows


def test_the_options_are_the_server_s_and_are_kept_in_the_scene(panel, qapp, scripted):
    server = scripted()
    connected(panel, qapp, server)
    assert set(rows(panel)) == {"augmentation", "epochs"}
    rows(panel)["augmentation"].widget.currentIndex = 1
    rows(panel)["epochs"].checkBox.checked = True
    rows(panel)["epochs"].widget.value = 7
    assert json.loads(panel.parameterNode.training) == {"augmentation": "none", "epochs": 7}
    connected(panel, qapp, server)
    assert rows(panel)["epochs"].widget.value == 7
    assert rows(panel)["augmentation"].value() == "none"


def test_it_runs_beside_other_work_and_can_be_stopped(panel, qapp, scripted):
    server = scripted(trainScript(RUNNING))
    ui = connected(panel, qapp, server)
    rows(panel)["epochs"].checkBox.checked = True
    rows(panel)["epochs"].widget.value = 4
    ui.trainButton.click()
    until(qapp, lambda: "Epoch 1 of 4" in ui.trainStatusLabel.text)
    assert ui.trainButton.text == "Stop training"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 1
    assert ui.testConnectionButton.enabled
    ui.trainButton.click()
    until(qapp, lambda: not panel.timer.active)
    assert ui.trainButton.text == "Retrain the segmenter"
    assert ("DELETE", "/train/") in [received[:2] for received in server.received]
    posted = next(body for method, _, _, body in server.received if method == "POST")
    assert json.loads(posted) == {"augmentation": "counterfactual", "epochs": 4}


@pytest.mark.parametrize("note", ["Published", "Not published: Dice 0.71, the model in use has 0.74"])
def test_the_outcome_says_what_became_of_the_model(panel, qapp, scripted, note):
    done = {**RUNNING, "epoch": 4, "state": "done", "message": note}
    ui = connected(panel, qapp, scripted(trainScript(RUNNING, done)))
    ui.trainButton.click()
    until(qapp, lambda: not panel.training.display.isBusy)
    assert ui.trainStatusLabel.text == f"Trained. Epoch 4 of 4, loss 0.5. {note}."


def test_a_training_that_is_refused_says_why(panel, qapp, scripted):
    busy = Answer(429, {"detail": {"message": "A training runs already.", "hint": "Stop it first."}})
    ui = connected(panel, qapp, scripted({("POST", "/train/tissue_segmenter"): busy}))
    ui.trainButton.click()
    until(qapp, lambda: not panel.training.display.isBusy)
    assert ui.trainStatusLabel.text == "A training runs already. Stop it first."
    assert ui.trainButton.text == "Retrain the segmenter"
