"""The labelling loop from the panel, on scripted servers; the whole of it is in test_live_server.py."""

import gzip
import re

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import cases, results, segmentation
from CounterfactualMRILib.schema import parseInfo
from event_loop import connected, until
from mrml_fixtures import affineOf, imageOf, makeVolume, niftiBytes, oblique, unscened
from scripted_server import INFO, Answer, jobScript, multipartAnswer

LABELS = parseInfo(INFO).models["tissue_segmenter"].labels


@pytest.fixture
def server(scripted, tmp_path):
    """A server with one image that has no label."""
    image = niftiBytes(np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4), oblique(), tmp_path)
    script = {
        ("POST", "/activelearning/random"): [Answer(body={"id": "sub-1", "message": "By chance."}), Answer(body={})],
        ("POST", "/activelearning/counterfactual_disagreement"): Answer(body={}),
        ("GET", "/datastore/"): [Answer(body={"completed": 1, "total": 2}), Answer(body={"completed": 2, "total": 2})],
        ("GET", "/datastore/image?image=sub-1"): Answer(body=gzip.compress(image)),
        ("GET", "/datastore/image/info?image=sub-1"): Answer(body={"acquisition": {"echo_time_ms": 2.4}}),
        ("PUT", "/datastore/label?image=sub-1&tag=final"): Answer(body={}),
    }
    return scripted(script)


def waited(panel, qapp):
    until(qapp, lambda: not panel.display.isBusy)
    return panel.ui.caseLabel.text


def tissueOf(volume):
    array = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    array[0], array[1] = 1, 2
    return segmentation.insertSegmentation(imageOf(array, affineOf(volume)), (1, 2), volume, LABELS, "1")


def nextCase(panel, qapp):
    panel.ui.strategyComboBox.currentIndex = 1  # after counterfactual_disagreement
    panel.ui.nextCaseButton.click()
    assert waited(panel, qapp) == "Loaded sub-1. By chance."
    return panel.ui.inputSelector.currentNode()


def test_the_strategies_are_the_server_s(panel, qapp, server):
    assert not panel.ui.nextCaseButton.enabled
    ui = connected(panel, qapp, server)
    assert [ui.strategyComboBox.itemText(i) for i in range(ui.strategyComboBox.count)] == [
        "counterfactual_disagreement",
        "random",
    ]
    assert ui.strategyComboBox.itemData(0, 3) == "Most disputed"
    assert ui.nextCaseButton.enabled
    assert ui.countsLabel.text == "1 of 4 labelled"


def test_the_next_case_is_loaded_with_its_parameters(panel, qapp, server):
    ui = connected(panel, qapp, server)
    volume = nextCase(panel, qapp)
    assert np.array_equal(slicer.util.arrayFromVolume(volume).ravel(), np.arange(24))
    assert np.allclose(affineOf(volume), oblique())
    assert ui.countsLabel.text == "1 of 2 labelled"
    assert ui.acquisitionLabel.text == "1 parameters as the server knows them."
    assert panel.targets.rows["echo_time_ms"].note.text == "now 2.4 ms"


def test_when_nothing_is_left_that_is_said(panel, qapp, server):
    ui = connected(panel, qapp, server)
    ui.strategyComboBox.currentIndex = 0
    ui.nextCaseButton.click()
    assert waited(panel, qapp) == "Every image on the server has a label."
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


def test_a_corrected_label_is_submitted(panel, qapp, server):
    ui = connected(panel, qapp, server)
    volume = nextCase(panel, qapp)
    assert ui.submitButton.toolTip == "Choose the corrected segmentation"
    ui.labelSelector.setCurrentNode(tissueOf(volume))
    assert ui.submitButton.enabled
    assert not ui.storeCheckBox.isVisibleTo(panel.parent)
    ui.submitButton.click()
    assert "The label is on the server" in waited(panel, qapp)
    assert ui.countsLabel.text == "2 of 2 labelled"
    _, path, _, body = next(received for received in server.received if received[0] == "PUT")
    assert path == "/datastore/label?image=sub-1&tag=final"
    sent = gzip.decompress(body[body.index(b"\x1f\x8b") :][: -len(b"\r\n--") - 36])
    assert sent[352:376] == bytes([1] * 12 + [2] * 12)


def test_another_volume_is_stored_only_when_that_is_allowed(panel, qapp, server):
    ui = connected(panel, qapp, server)
    volume = makeVolume(name="DOE^JANE")
    ui.inputSelector.setCurrentNode(volume)
    ui.labelSelector.setCurrentNode(tissueOf(volume))
    assert ui.storeCheckBox.isVisibleTo(panel.parent)
    assert ui.submitButton.toolTip == "Allow storing the volume too"
    ui.storeCheckBox.checked = True
    answer = server.answerTo
    server.answerTo = lambda method, path: Answer(body={}) if method == "PUT" else answer(method, path)
    ui.submitButton.click()
    assert "The label is on the server" in waited(panel, qapp)
    puts = [received for received in server.received if received[0] == "PUT"]
    imageId = re.fullmatch(r"/datastore/image\?image=([0-9a-f]{32})", puts[0][1]).group(1)
    assert puts[1][1] == f"/datastore/label?image={imageId}&tag=final"
    assert not any(b"DOE" in received[3] for received in server.received)
    assert cases.imageIdOf(volume, server.address) == imageId
    assert not ui.storeCheckBox.checked
    assert ui.submitButton.enabled


def test_an_unknown_segment_is_named_and_nothing_is_sent(panel, qapp, server):
    ui = connected(panel, qapp, server)
    node = tissueOf(nextCase(panel, qapp))
    ui.labelSelector.setCurrentNode(node)
    node.GetSegmentation().GetNthSegment(0).SetName("cyst")
    ui.submitButton.click()
    assert "no label 'cyst'" in waited(panel, qapp)
    assert not any(received[0] == "PUT" for received in server.received)
    node.GetSegmentation().RemoveAllSegments()
    ui.submitButton.click()
    assert "no segment to submit" in ui.caseLabel.text
    assert not panel.display.isBusy


def test_an_image_that_cannot_be_read_leaves_the_scene_as_it_was(panel, qapp, server):
    ui = connected(panel, qapp, server)
    server.script["GET", "/datastore/image?image=sub-1"] = Answer(body=b"garbage")
    ui.strategyComboBox.currentIndex = 1
    before = slicer.mrmlScene.GetNumberOfNodes()
    ui.nextCaseButton.click()
    assert "cannot be read" in waited(panel, qapp)
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_the_label_of_one_patient_is_not_submitted_for_the_next(panel, qapp, server):
    ui = connected(panel, qapp, server)
    first = nextCase(panel, qapp)
    label = tissueOf(first)
    ui.labelSelector.setCurrentNode(label)
    second = makeVolume(slicer.util.arrayFromVolume(first).copy(), affineOf(first), "sub-2")
    cases.markCase(second, "sub-2", server.address)
    ui.inputSelector.setCurrentNode(second)
    assert ui.labelSelector.currentNode() is None
    assert ui.submitButton.toolTip == "Choose the corrected segmentation"
    ui.labelSelector.setCurrentNode(label)
    ui.submitButton.click()
    assert "is the segmentation of another volume, 'sub-1'" in ui.caseLabel.text
    assert "Choose the segmentation of 'sub-2'" in ui.caseLabel.text
    assert not any(received[0] == "PUT" for received in server.received)
    ui.inputSelector.setCurrentNode(first)
    assert ui.labelSelector.currentNode() is label


def test_a_label_without_a_voxel_is_not_submitted(panel, qapp, server):
    ui = connected(panel, qapp, server)
    volume = nextCase(panel, qapp)
    empty = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    node = segmentation.insertSegmentation(imageOf(empty, affineOf(volume)), (1, 2), volume, LABELS, "1")
    ui.labelSelector.setCurrentNode(node)
    ui.submitButton.click()
    assert "marks no voxel of this volume" in waited(panel, qapp)
    assert not any(received[0] == "PUT" for received in server.received)


def test_a_new_segmentation_is_the_label_to_submit(panel, qapp, server, tmp_path):
    ui = connected(panel, qapp, server)
    volume = nextCase(panel, qapp)
    tissueOf(volume)
    array = np.ones(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    answer = multipartAnswer({}, niftiBytes(array, affineOf(volume), tmp_path))
    server.script.update(jobScript("tissue_segmenter", answer))
    ui.segmentButton.click()
    waited(panel, qapp)
    assert ui.labelSelector.currentNode() is slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[-1]
    assert ui.submitButton.enabled


def test_a_synthetic_volume_is_no_training_image(panel, qapp, server):
    ui = connected(panel, qapp, server)
    source = makeVolume()
    made = unscened(np.zeros((12, 30, 20), np.float32), affineOf(source))
    node = results.insertCounterfactual(made, source, {"changes": {}}, "1")
    ui.inputSelector.setCurrentNode(node)
    ui.labelSelector.setCurrentNode(tissueOf(node))
    ui.storeCheckBox.checked = True
    ui.submitButton.click()
    assert "is synthetic" in ui.caseLabel.text
    assert "Choose the volume that it was made from" in ui.caseLabel.text
    assert not any(received[0] == "PUT" for received in server.received)


def test_the_agreement_to_storing_holds_for_one_volume(panel, qapp, server):
    ui = connected(panel, qapp, server)
    first, second = makeVolume(), makeVolume(name="other")
    ui.inputSelector.setCurrentNode(first)
    ui.storeCheckBox.checked = True
    ui.inputSelector.setCurrentNode(second)
    assert not ui.storeCheckBox.checked


def test_the_next_case_is_shown_in_the_slice_views(panel, qapp, server, layout):
    red = layout.sliceLogic("Red")
    connected(panel, qapp, server)
    volume = nextCase(panel, qapp)
    assert red.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
