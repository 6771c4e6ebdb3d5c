"""A blinded reading in the panel, on real MRML."""

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import results
from CounterfactualMRILib.layout import BLINDED_LAYOUT_ID, LEFT_VIEW, RIGHT_VIEW
from event_loop import connected, until
from mrml_fixtures import affineOf, makeVolume, niftiBytes, unscened
from scripted_server import jobScript, multipartAnswer


@pytest.fixture
def read(panel):
    source = makeVolume()
    for change in (10, -10):
        voxels = slicer.util.arrayFromVolume(source).astype(np.float32)[3:9] + change
        affine = affineOf(source).copy()
        affine[:3, 3] += 3 * affine[:3, 2]
        results.insertCounterfactual(unscened(voxels, affine), source, {"changes": {}}, "1")
    panel.ui.readerLineEdit.text = "A"
    return panel.ui, panel.reading


def grade(ui, index, place=None):
    ui.gradeComboBox.currentIndex = index
    if place is not None:
        place.checked = True


def test_without_counterfactuals_it_says_so(panel):
    panel.ui.readingButton.click()
    assert "Generate at least one" in panel.ui.readingLabel.text
    assert not panel.ui.nextPairButton.enabled


def test_nothing_in_the_views_tells_which_is_which(read, layout, panel):
    ui, reading = read
    ui.readingButton.click()
    assert layout.node.GetViewArrangement() == BLINDED_LAYOUT_ID
    shown = []
    for name in (LEFT_VIEW, RIGHT_VIEW):
        composite = layout.sliceLogic(name).GetSliceCompositeNode()
        shown.append(slicer.mrmlScene.GetNodeByID(composite.GetBackgroundVolumeID()))
    assert {node.GetName() for node in shown} == {"Reading L", "Reading R"}
    assert len({node.GetImageData().GetDimensions() for node in shown}) == 1
    assert len({node.GetImageData().GetScalarType() for node in shown}) == 1
    assert all(node.GetHideFromEditors() and not node.GetSaveWithScene() for node in shown)
    assert panel.ui.resultsCollapsibleButton.collapsed
    pair = reading.study.current
    differs = not np.array_equal(*(slicer.util.arrayFromVolume(node) for node in shown))
    assert differs != pair.isControl


def test_a_pair_needs_a_grade_and_a_change_a_place(read):
    ui, _ = read
    ui.readingButton.click()
    assert not ui.nextPairButton.enabled
    grade(ui, 1)
    assert ui.nextPairButton.enabled
    grade(ui, 3)
    assert not ui.nextPairButton.enabled
    grade(ui, 3, ui.outsideCheckBox)
    assert ui.nextPairButton.enabled


def test_a_whole_reading_ends_in_a_table_and_a_file(read, tmp_path, layout):
    ui, reading = read
    ui.readingButton.click()
    volumes = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    grade(ui, 2, ui.withinCheckBox)
    ui.nextPairButton.click()
    assert ui.takeBackButton.enabled
    ui.takeBackButton.click()
    for _ in range(len(reading.study.pairs)):
        grade(ui, 2, ui.withinCheckBox)
        ui.nextPairButton.click()
    assert "All pairs were read" in ui.readingLabel.text
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == volumes - 2
    reading.save(str(tmp_path / "readings.csv"))
    lines = (tmp_path / "readings.csv").read_text().splitlines()
    assert len(lines) == len(reading.study.pairs) + 1
    assert "minimal,True,False" in lines[1]
    reading.save(str(tmp_path / "absent" / "readings.csv"))
    assert ui.readingLabel.text.startswith("Not saved")


def test_a_reading_that_is_ended_leaves_no_copies(read, panel):
    ui, _ = read
    before = slicer.mrmlScene.GetNumberOfNodes()
    ui.readingButton.click()
    ui.readingButton.click()
    assert ui.readingLabel.text.startswith("Ended")
    volumes = [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    assert not [name for name in volumes if name.startswith("Reading")]
    assert slicer.mrmlScene.GetNumberOfNodes() <= before + 4
    assert not panel.ui.resultsCollapsibleButton.collapsed


def test_stored_values_do_not_tell_which_is_which(panel):
    whole = makeVolume()
    fractions = makeVolume(slicer.util.arrayFromVolume(whole) + np.float32(0.25), name="fractions")
    asFloats = makeVolume(slicer.util.arrayFromVolume(whole).astype(np.float32), name="floats")
    for source, isWhole in ((whole, True), (asFloats, True), (fractions, False)):
        voxels = slicer.util.arrayFromVolume(source).astype(np.float32) + 0.4
        node = results.insertCounterfactual(unscened(voxels, affineOf(source)), source, {"changes": {}}, "1")
        panel.ui.readingButton.click()
        while panel.reading.study.current.isControl:
            grade(panel.ui, 1)
            panel.ui.nextPairButton.click()
        for name in ("Reading L", "Reading R"):
            shown = slicer.util.arrayFromVolume(slicer.util.getNode(name))
            assert bool((shown == np.rint(shown)).all()) == isWhole
        panel.ui.readingButton.click()
        results.remove(node)


def test_a_job_that_ends_during_a_reading_shows_nothing(read, panel, layout, qapp, scripted, tmp_path):
    ui, _ = read
    source = ui.inputSelector.currentNode()
    image = niftiBytes(np.zeros((12, 30, 20), np.float32), affineOf(source), tmp_path)
    connected(panel, qapp, scripted(jobScript("counterfactual", multipartAnswer({"changes": {}}, image))))
    panel.targets.rows["echo_time_ms"].checkBox.checked = True
    ui.generateButton.click()
    ui.readingButton.click()
    assert not ui.editingCollapsibleButton.enabled
    until(qapp, lambda: not panel.display.isBusy)
    assert layout.node.GetViewArrangement() == BLINDED_LAYOUT_ID
    assert results.isSynthetic(panel.parameterNode.resultVolume)
    ui.readingButton.click()
    assert ui.editingCollapsibleButton.enabled
    assert ui.resultsTable.rowCount == 3
    assert panel.results.current() is panel.parameterNode.resultVolume


def test_a_case_that_comes_during_a_reading_is_not_shown(read, panel, layout):
    ui, reading = read
    ui.readingButton.click()
    views = [layout.sliceLogic(name).GetSliceCompositeNode() for name in (LEFT_VIEW, RIGHT_VIEW)]
    before = [view.GetBackgroundVolumeID() for view in views]
    panel.onCaseLoaded(makeVolume(name="sub-1"))
    assert [view.GetBackgroundVolumeID() for view in views] == before
    assert reading.isReading


def test_another_time_point_of_the_source_ends_the_reading(read):
    ui, reading = read
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        if results.isSynthetic(node):
            node.SetAttribute("CounterfactualMRI.SourceChecksum", "of another time point")
    ui.readingButton.click()
    assert "has other voxels" in ui.readingLabel.text
    assert not reading.isReading
