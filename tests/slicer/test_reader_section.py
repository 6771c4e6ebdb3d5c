"""A blinded reading in the panel, on real MRML."""

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import results
from CounterfactualMRILib.layout import BLINDED_LAYOUT_ID, LEFT_VIEW, RIGHT_VIEW
from mrml_fixtures import affineOf, makeVolume, unscened


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
