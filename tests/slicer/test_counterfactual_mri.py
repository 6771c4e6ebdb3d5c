"""The panel, from its .ui, on scripted servers; the whole loop on the real one is in test_live_server.py."""

import re
import time
from types import SimpleNamespace

import CounterfactualMRI
import numpy as np
import pytest
import qt
import slicer
from CounterfactualMRI import CounterfactualMRIWidget
from CounterfactualMRILib import results
from CounterfactualMRILib.layout import LAYOUT_ID, ORIGINAL_VIEW, sliceInView
from event_loop import Heartbeat, connected, until
from mrml_fixtures import affineOf, makeVolume, niftiBytes, saveScene, unscened
from scripted_server import Answer, jobScript, multipartAnswer


def test_nothing_can_be_done_before_a_connection_and_the_tool_tip_says_so(panel):
    assert not panel.ui.generateButton.enabled
    assert panel.ui.generateButton.toolTip == "Test the connection first"
    assert not panel.ui.segmentButton.enabled
    assert not panel.ui.trainButton.enabled
    assert not panel.ui.compareButton.enabled


def test_each_missing_thing_is_named_in_turn(panel, qapp, scripted):
    ui = connected(panel, qapp, scripted())
    assert ui.connectionLabel.text.startswith("Connected.")
    assert ui.generateButton.toolTip == "Choose an MR volume"
    makeVolume()
    assert ui.inputSelector.currentNode() is not None
    assert ui.generateButton.toolTip == "Choose at least one parameter to change"
    panel.targets.rows["echo_time_ms"].checkBox.checked = True
    assert ui.generateButton.enabled
    assert ui.segmentButton.enabled
    assert ui.trainButton.enabled


def test_a_failed_connection_says_how_to_mend_it(panel, qapp, scripted):
    ui = connected(panel, qapp, scripted({("GET", "/info/"): Answer(401)}))
    assert "token" in ui.connectionLabel.text
    ui.addressComboBox.currentText = "two words"
    ui.testConnectionButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    assert "not a server address" in ui.connectionLabel.text


def test_another_address_forgets_the_server(panel, qapp, scripted):
    ui = connected(panel, qapp, scripted())
    ui.addressComboBox.currentText = "http://127.0.0.1:1"
    assert panel.logic.server is None
    assert ui.connectionLabel.text == "Not connected."


def test_addresses_are_remembered_and_tokens_are_not(panel, qapp, scripted):
    server = scripted()
    panel.ui.tokenLineEdit.text = "secret"
    connected(panel, qapp, server)
    settings = qt.QSettings()
    stored = str([settings.value(key) for key in settings.allKeys()])
    assert server.address in stored
    assert "secret" not in stored
    for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
        assert "secret" not in str(node)
    again = CounterfactualMRIWidget()
    assert again.ui.addressComboBox.currentText == server.address
    again.cleanup()


def test_images_go_to_another_computer_only_after_consent(panel):
    panel.ui.addressComboBox.currentText = "http://10.1.2.3:8000"
    assert panel.ui.consentCheckBox.isVisibleTo(panel.parent)
    assert not panel.serverSection.mayUpload()
    panel.ui.consentCheckBox.checked = True
    assert panel.serverSection.mayUpload()
    panel.ui.addressComboBox.currentText = "http://10.1.2.4:8000"
    assert not panel.serverSection.mayUpload()
    panel.ui.addressComboBox.currentText = "http://10.1.2.3:8000"
    assert panel.serverSection.mayUpload()
    panel.ui.addressComboBox.currentText = "http://127.0.0.1:8000"
    assert panel.serverSection.mayUpload()


def resultFor(source, tmp_path, warnings=()):
    image = niftiBytes(np.zeros((12, 30, 20), np.float32), affineOf(source), tmp_path)
    return multipartAnswer({"changes": {"echo_time_ms": 1.4}, "warnings": list(warnings)}, image)


def ready(panel, qapp, server, source):
    ui = connected(panel, qapp, server)
    ui.inputSelector.setCurrentNode(source)
    panel.targets.rows["echo_time_ms"].checkBox.checked = True
    return ui


def test_generate_shows_progress_then_result_warning_and_comparison(panel, qapp, scripted, tmp_path, layout):
    source = makeVolume()
    statuses = ({"state": "running", "step": 2, "steps": 9, "message": "Denoising"}, {"state": "done"})
    server = scripted(jobScript("counterfactual", resultFor(source, tmp_path, ["TE is outside training."]), *statuses))
    ui = ready(panel, qapp, server, source)
    ui.generateButton.click()
    assert ui.generateButton.text == "Cancel"
    assert ui.generateButton.enabled
    assert not ui.segmentButton.enabled
    until(qapp, lambda: not panel.display.isBusy)
    assert "[synthetic] breast" in ui.statusLabel.text
    assert "Caution: TE is outside training." in ui.statusLabel.text
    assert ui.generateButton.text == "Generate counterfactual"
    assert panel.comparison.isShown
    assert ui.compareButton.checked
    ui.compareButton.click()
    assert not panel.comparison.isShown
    ui.compareButton.click()
    assert panel.comparison.isShown
    until(qapp, lambda: not panel.timer.active)


def test_the_same_is_asked_for_again(panel, qapp, scripted, tmp_path):
    source = makeVolume()
    image = niftiBytes(np.zeros((12, 30, 20), np.float32), affineOf(source), tmp_path)
    made = multipartAnswer({"changes": {"echo_time_ms": [2.4, 1.4]}, "method": "paper", "seed": 9, "steps": 1}, image)
    ui = ready(panel, qapp, scripted(jobScript("counterfactual", made)), source)
    ui.generateButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    panel.targets.setValues({})
    ui.askAgainButton.click()
    assert panel.targets.values() == {"echo_time_ms": 1.4}
    assert panel.options.values() == {"method": "paper", "seed": 9}


def test_a_preview_asks_for_the_slice_in_view_only(panel, qapp, scripted, tmp_path, layout):
    source = makeVolume()
    server = scripted(jobScript("counterfactual", resultFor(source, tmp_path)))
    ui = ready(panel, qapp, server, source)
    ui.previewButton.click()
    assert "No slice view" in ui.statusLabel.text
    panel.comparison.show(source, source)
    logic = layout.sliceLogic(ORIGINAL_VIEW)
    panel.comparison.show(source, source)
    assert logic.GetSliceNode().GetOrientation() == "Axial"
    ui.previewButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    sent = next(body for method, path, _, body in server.received if (method, path) == ("POST", "/jobs/counterfactual"))
    number = int(re.search(rb'"slices": "(\d+)"', sent).group(1))
    assert number == sliceInView(source)
    assert 0 <= number < 12


@pytest.mark.flaky(reruns=2)
def test_cancel_ends_at_once_with_nothing_left(panel, qapp, scripted):
    source = makeVolume()
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running", "step": 2, "steps": 9}))
    ui = ready(panel, qapp, server, source)
    ui.generateButton.click()
    until(qapp, lambda: ui.progressBar.maximum == 9)
    began = time.monotonic()
    ui.generateButton.click()
    assert time.monotonic() - began < 0.2
    assert (ui.statusLabel.text, ui.generateButton.text) == ("Cancelled", "Generate counterfactual")
    until(qapp, lambda: not panel.timer.active)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


@pytest.mark.flaky(reruns=2)
def test_a_server_killed_in_the_middle_is_reported_within_a_second(panel, qapp, scripted):
    server = scripted({**jobScript("counterfactual", Answer()), ("GET", "/jobs/j1"): Answer(drop=True)})
    ui = ready(panel, qapp, server, makeVolume())
    began = time.monotonic()
    ui.generateButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    assert time.monotonic() - began < 1.5
    assert "broke off" in ui.statusLabel.text


@pytest.mark.flaky(reruns=2)
def test_the_event_loop_is_not_blocked_by_a_slow_server(panel, qapp, scripted):
    server = scripted({("GET", "/info/"): Answer(401, delayS=1.0)})
    panel.ui.addressComboBox.currentText = server.address
    panel.ui.testConnectionButton.click()
    with Heartbeat() as heartbeat:
        until(qapp, lambda: not panel.display.isBusy)
    assert heartbeat.longestS < 0.1


def test_predicted_parameters_become_the_present_ones(panel, qapp, scripted):
    values = {"predicted": {"echo_time_ms": {"value": 2.2, "probabilities": None}, "field_strength_t": {"value": 3.0}}}
    ui = connected(panel, qapp, scripted(jobScript("iap_predictor", Answer(body=values))))
    makeVolume()
    assert "server can predict" in ui.acquisitionLabel.text
    ui.predictButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    assert panel.targets.rows["echo_time_ms"].note.text == "now 2.2 ms"
    assert "predicted from the image" in ui.acquisitionLabel.text


def test_requests_are_kept_in_the_scene(panel, qapp, scripted):
    server = scripted()
    ready(panel, qapp, server, makeVolume())
    panel.targets.rows["echo_time_ms"].widget.value = 1.7
    connected(panel, qapp, server)
    assert panel.targets.values() == {"echo_time_ms": 1.7}


def test_closing_the_scene_cancels_and_the_panel_goes_on(panel, qapp, scripted):
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running", "step": 2, "steps": 9}))
    ui = ready(panel, qapp, server, makeVolume())
    ui.generateButton.click()
    slicer.mrmlScene.Clear()
    until(qapp, lambda: not panel.timer.active)
    assert not panel.display.isBusy
    assert ui.inputSelector.currentNode() is None
    makeVolume()
    assert panel.parameterNode.inputVolume is not None


def test_leaving_and_entering_the_module(panel):
    panel.exit()
    panel.enter()
    panel.enter()
    volume = makeVolume()
    panel.ui.inputSelector.setCurrentNode(volume)
    assert panel.parameterNode.inputVolume is volume


def test_the_module_describes_itself():
    class Parent:
        pass

    module = CounterfactualMRI.CounterfactualMRI(Parent())
    assert module.parent.title == "Counterfactual MRI"
    assert module.parent.categories == ["Image Synthesis"]
    assert "research" in module.parent.helpText


def test_the_self_test_for_people_who_have_slicer_passes():
    CounterfactualMRI.CounterfactualMRITest().runTest()


@pytest.mark.flaky(reruns=2)
def test_quitting_during_a_job_cancels_it_on_the_server(panel, qapp, scripted):
    server = scripted(jobScript("counterfactual", Answer(), {"state": "running", "step": 2, "steps": 9}))
    ui = ready(panel, qapp, server, makeVolume())
    ui.generateButton.click()
    until(qapp, lambda: ui.progressBar.maximum == 9)
    panel.cleanup()
    assert ("DELETE", "/jobs/j1") in [received[:2] for received in server.received]


def reloaded(tmp_path):
    """Save the scene and load it again."""
    path = saveScene(tmp_path)
    slicer.mrmlScene.Clear()
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Connect()


def withResult(panel):
    """Choose a volume that has a result, select that, and return both."""
    source = makeVolume()
    made = unscened(np.zeros((12, 30, 20), np.float32), affineOf(source))
    node = results.insertCounterfactual(made, source, {"changes": {}}, "1")
    panel.ui.inputSelector.setCurrentNode(source)
    panel.parameterNode.resultVolume = node
    panel.onInputChanged()
    return source, node


def test_a_loaded_scene_shows_its_volume_its_results_and_its_comparison(panel, layout, tmp_path):
    withResult(panel)
    panel.ui.compareButton.click()
    reloaded(tmp_path)
    assert panel.ui.inputSelector.currentNode().GetName() == "breast"
    assert panel.ui.resultsTable.rowCount == 1
    assert panel.results.current().GetName() == "[synthetic] breast"
    assert panel.comparison.isShown
    panel.ui.compareButton.click()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
    panel.ui.compareButton.click()
    assert panel.comparison.isShown


def test_a_scene_saved_during_a_reading_is_not_shown_blinded(panel, layout, tmp_path):
    withResult(panel)
    panel.ui.readingButton.click()
    reloaded(tmp_path)
    assert not panel.comparison.isBlinded
    assert not panel.reading.isReading


def test_closing_the_scene_during_a_reading_enables_the_panel_again(panel, layout):
    withResult(panel)
    panel.ui.readingButton.click()
    assert not panel.ui.resultsCollapsibleButton.enabled
    slicer.mrmlScene.Clear()
    assert panel.ui.resultsCollapsibleButton.enabled
    assert panel.ui.readingButton.text == "Begin a blinded reading"


def test_a_case_that_comes_while_another_module_is_shown_is_the_one_to_work_on(panel):
    makeVolume()
    panel.exit()
    case = makeVolume(name="sub-1")
    panel.onCaseLoaded(case)
    panel.enter()
    assert panel.ui.inputSelector.currentNode() is case


def test_layouts_are_registered_at_the_start(layout):
    CounterfactualMRI.CounterfactualMRI(SimpleNamespace())
    for slot in slicer.app.startupSlots:
        slot()
    assert layout.node.IsLayoutDescription(LAYOUT_ID)
