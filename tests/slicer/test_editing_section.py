"""Lesion and structure edits from the panel, on scripted servers."""

import copy
import json
import re

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import results
from event_loop import connected, until
from mrml_fixtures import affineOf, makeVolume, niftiBytes
from scripted_server import INFO, Answer, jobScript, multipartAnswer

SEED = {"name": "seed", "label": "Seed", "type": "integer", "minimum": 0, "maximum": 9, "default": 0}
LESION = [
    {"name": "mode", "label": "Mode", "type": "choice", "choices": ["insert", "remove"], "default": "insert"},
    {"name": "region", "label": "Region", "type": "region", "default": None, "help": "Where the lesion is."},
    SEED,
]
STRUCTURE = [
    {"name": "delta", "label": "Change", "type": "number", "minimum": -0.9, "maximum": 2.0, "support": [-0.4, 0.4],
     "default": None},
    SEED,
]  # fmt: skip


def info(**editors):
    told = copy.deepcopy(INFO)
    for name, parameters in editors.items():
        told["models"][name] = {"config": {"api_version": 1, "parameters": parameters}}
    return {("GET", "/info/"): Answer(body=told)}


@pytest.fixture
def volume():
    return makeVolume()


@pytest.fixture
def edited(volume, tmp_path):
    voxels = slicer.util.arrayFromVolume(volume) + 1
    return multipartAnswer({"edit": "lesion inserted", "seed": 0}, niftiBytes(voxels, affineOf(volume), tmp_path))


def sentTo(server, model):
    return next(body for method, path, _, body in server.received if (method, path) == ("POST", f"/jobs/{model}"))


def test_without_such_a_model_there_is_no_section(panel, qapp, scripted):
    ui = connected(panel, qapp, scripted())
    assert not ui.editingCollapsibleButton.isVisibleTo(panel.parent)


def test_a_lesion_is_inserted_where_the_roi_lies(panel, qapp, scripted, volume, edited):
    ui = connected(panel, qapp, scripted({**info(lesion_editor=LESION), **jobScript("lesion_editor", edited)}))
    assert ui.editingCollapsibleButton.isVisibleTo(panel.parent)
    assert list(panel.editing.controls.rows) == ["mode", "seed"]
    assert ui.regionSelector.toolTip == "Where the lesion is."
    assert (ui.editButton.enabled, ui.editButton.toolTip) == (False, "Choose where")
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(8, 8, 8)
    roi.SetCenter(*(affineOf(volume) @ [10, 15, 6, 1])[:3])
    ui.regionSelector.setCurrentNode(roi)
    ui.editButton.click()
    assert ui.editButton.text == "Cancel"
    until(qapp, lambda: not panel.display.isBusy)
    assert ui.editingLabel.text == "Made [synthetic] breast (lesion inserted)."
    node = panel.parameterNode.resultVolume
    assert results.isSynthetic(node)
    assert np.array_equal(slicer.util.arrayFromVolume(node), slicer.util.arrayFromVolume(volume) + 1)
    assert not ui.askAgainButton.enabled


def test_the_request_holds_the_box_or_the_mask(panel, qapp, scripted, volume, edited):
    server = scripted({**info(lesion_editor=LESION), **jobScript("lesion_editor", edited)})
    connected(panel, qapp, server)
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(1000, 1000, 1000)
    panel.logic.edit("lesion_editor", volume, {"mode": "remove"}, roi)
    body = sentTo(server, "lesion_editor")
    request = json.loads(re.search(rb'name="params"\r\n\r\n(.*?)\r\n', body).group(1))
    assert request["region"] == [0, 0, 0, 20, 30, 12]
    assert request["mode"] == "remove"
    assert b'name="label"' not in body
    server.received.clear()
    marked = np.ones(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    mask = slicer.util.addVolumeFromArray(marked, nodeClassName="vtkMRMLLabelMapVolumeNode")
    matrix = slicer.util.vtkMatrixFromArray(affineOf(volume))
    mask.SetIJKToRASMatrix(matrix)
    panel.logic.edit("lesion_editor", volume, {}, mask)
    body = sentTo(server, "lesion_editor")
    assert b'name="label"' in body
    assert b'"region"' not in body


def test_a_share_needs_no_region_and_can_be_cancelled(panel, qapp, scripted, volume):
    script = jobScript("structure_editor", Answer(), {"state": "running", "step": 1, "steps": 9})
    ui = connected(panel, qapp, scripted({**info(lesion_editor=LESION, structure_editor=STRUCTURE), **script}))
    ui.editorComboBox.currentIndex = 1
    assert not ui.regionSelector.isVisibleTo(panel.parent)
    panel.editing.controls.rows["delta"].checkBox.checked = True
    before = slicer.mrmlScene.GetNumberOfNodes()
    ui.editButton.click()
    until(qapp, lambda: ui.progressBar.maximum == 9)
    ui.editButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    assert ui.editButton.text == "Change the anatomy"
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_what_the_server_refuses_is_told(panel, qapp, scripted, volume):
    refusal = {
        "detail": {"field": "delta", "value": None, "accepted": "one of fgt_fraction, delta", "message": "Both."}
    }
    script = {("POST", "/jobs/structure_editor"): Answer(422, refusal)}
    ui = connected(panel, qapp, scripted({**info(structure_editor=STRUCTURE), **script}))
    ui.editButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    assert "Both." in ui.editingLabel.text
