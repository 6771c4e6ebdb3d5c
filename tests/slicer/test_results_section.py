"""The table of results and the ways of seeing them, on real MRML and the panel's own .ui."""

import json

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import difference, results, uncertainty
from CounterfactualMRILib.layout import (
    COUNTERFACTUAL_VIEW,
    DIFFERENCE_VIEW,
    LAYOUT_ID,
    LAYOUT_WITH_DIFFERENCE_ID,
    ORIGINAL_VIEW,
)
from event_loop import until
from mrml_fixtures import affineOf, imageOf, makeVolume, unscened


def addResult(source, change, **evidence):
    stored = slicer.util.arrayFromVolume(source)
    voxels = stored.astype(np.float32) + change
    shown = {"changes": {"echo_time_ms": [2.4, 1.4]}, "method": "fast", "seed": 7, "steps": 1, **evidence}
    made = unscened(voxels, affineOf(source))
    return results.insertCounterfactual(made, source, shown, "1", results.checksumOf(stored))


@pytest.fixture
def two(panel):
    """A source and two results; the second is selected."""
    source = makeVolume()
    made = [addResult(source, 10), addResult(source, -10, acceptance={"verdict": "refused"}, warnings=["too noisy"])]
    panel.ui.inputSelector.setCurrentNode(source)
    panel.results.show(source, made[1])
    return source, made


def cells(panel, row):
    table = panel.ui.resultsTable
    return [table.item(row, column).text() for column in range(table.columnCount)]


def test_results_are_listed_with_method_seed_and_verdict(panel, two):
    assert panel.ui.resultsTable.rowCount == 2
    assert cells(panel, 0)[1:] == ["fast", "7", "not judged"]
    assert cells(panel, 1)[3] == "refused"
    assert "too noisy" in panel.ui.verdictLabel.text


def test_only_results_of_the_chosen_volume_are_listed(panel, two):
    other = makeVolume(name="other")
    addResult(other, 1)
    panel.ui.inputSelector.setCurrentNode(other)
    assert panel.ui.resultsTable.rowCount == 1
    panel.ui.inputSelector.setCurrentNode(two[0])
    assert panel.ui.resultsTable.rowCount == 2


def test_selecting_a_row_shows_that_result(panel, two, layout):
    source, (first, second) = two
    panel.ui.compareButton.click()
    views = {name: layout.sliceLogic(name) for name in (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW)}
    composite = views[COUNTERFACTUAL_VIEW].GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == second.GetID()
    panel.ui.resultsTable.selectRow(0)
    assert composite.GetBackgroundVolumeID() == first.GetID()
    assert panel.parameterNode.resultVolume is first
    assert views[ORIGINAL_VIEW].GetSliceCompositeNode().GetBackgroundVolumeID() == source.GetID()


def test_the_difference_gets_a_view_of_its_own(panel, two, layout, qapp):
    source, _ = two
    panel.ui.compareButton.click()
    assert layout.node.GetViewArrangement() == LAYOUT_ID
    panel.ui.differenceButton.click()
    until(qapp, lambda: layout.node.GetViewArrangement() == LAYOUT_WITH_DIFFERENCE_ID)
    assert panel.ui.seeingLabel.text == ""
    composite = layout.sliceLogic(DIFFERENCE_VIEW).GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == source.GetID()
    signed = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
    assert slicer.util.arrayFromVolume(signed) == pytest.approx(-10)
    panel.ui.differenceButton.click()
    assert layout.node.GetViewArrangement() == LAYOUT_ID
    panel.ui.compareButton.click()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


def test_fading_blends_the_source_over_the_counterfactual(panel, two, layout):
    panel.ui.compareButton.click()
    composite = layout.sliceLogic(COUNTERFACTUAL_VIEW).GetSliceCompositeNode()
    panel.ui.fadeSlider.value = 30
    assert composite.GetForegroundVolumeID() == two[0].GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)
    panel.ui.fadeSlider.value = 0
    assert composite.GetForegroundVolumeID() is None


def test_flicker_goes_to_and_fro_and_ends_with_the_comparison(panel, two, qapp):
    panel.ui.compareButton.click()
    panel.ui.flickerButton.click()
    until(qapp, lambda: panel.ui.fadeSlider.value == 100)
    until(qapp, lambda: panel.ui.fadeSlider.value == 0)
    panel.ui.compareButton.click()
    assert not panel.ui.flickerButton.checked
    assert not panel.ui.flickerButton.enabled


def test_delete_removes_the_result_and_its_difference_only(panel, two, qapp):
    source, (first, second) = two
    panel.ui.compareButton.click()
    panel.ui.differenceButton.click()
    until(qapp, lambda: difference.differenceOf(second) is not None)
    panel.ui.deleteButton.click()
    assert panel.ui.resultsTable.rowCount == 1
    assert panel.results.current() is first
    assert not slicer.mrmlScene.IsNodePresent(second)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    panel.ui.deleteButton.click()
    assert not panel.ui.deleteButton.enabled
    assert slicer.mrmlScene.IsNodePresent(source)


def test_a_difference_that_cannot_be_made_is_said_and_its_button_comes_up_again(panel, two, qapp):
    source, _ = two
    panel.ui.compareButton.click()
    source.SetOrigin(1, 2, 3)
    panel.ui.differenceButton.click()
    assert "no longer lies on the counterfactual's grid" in panel.ui.seeingLabel.text
    assert not panel.ui.differenceButton.checked


def test_a_result_deleted_while_its_difference_is_made_leaves_nothing(panel, two, qapp):
    panel.ui.compareButton.click()
    panel.ui.differenceButton.click()
    panel.ui.deleteButton.click()
    until(qapp, lambda: not panel.timer.active)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


def test_the_uncertainty_lies_over_the_counterfactual_in_place_of_the_fade(panel, two, layout):
    _, (first, second) = two
    widths = imageOf(np.full((12, 30, 20), 5.0, np.float32), affineOf(second))
    node = uncertainty.insertUncertainty(widths, (0.0, 5.0), second, {"uncertainty": {"level": 0.9}})
    ui = panel.ui
    ui.compareButton.click()
    composite = layout.sliceLogic(COUNTERFACTUAL_VIEW).GetSliceCompositeNode()
    ui.fadeSlider.value = 40
    assert ui.uncertaintyButton.enabled
    ui.uncertaintyButton.click()
    assert composite.GetForegroundVolumeID() == node.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.5)
    assert not ui.fadeSlider.enabled
    assert not ui.flickerButton.enabled
    ui.resultsTable.selectRow(0)
    assert not ui.uncertaintyButton.enabled
    assert composite.GetForegroundVolumeID() is None
    assert ui.fadeSlider.enabled
    ui.resultsTable.selectRow(1)
    assert composite.GetForegroundVolumeID() == node.GetID()
    ui.uncertaintyButton.click()
    assert composite.GetForegroundVolumeID() is None
    assert first is not second


def test_a_result_removed_elsewhere_leaves_the_table(panel, two):
    slicer.mrmlScene.RemoveNode(two[1][0])
    assert panel.ui.resultsTable.rowCount == 1
    assert panel.results.current() is two[1][1]


def test_a_scene_that_is_loaded_again_lists_its_results(panel, two, tmp_path):
    node = two[1][1]
    evidence = json.loads(node.GetAttribute("CounterfactualMRI.Evidence"))
    assert results.requestedChangesOf(evidence) == {"echo_time_ms": 1.4}
    assert results.optionsOf(evidence) == {"method": "fast", "seed": 7}
    assert results.optionsOf({"method": "inversion", "seed": 1, "steps": 13, "guidance_scale": 1.25})["steps"] == 13
    node.SetAttribute("CounterfactualMRI.Evidence", "not json")
    assert results.evidenceOf(node) == {}


def test_another_volume_ends_the_comparison_or_shows_its_own(panel, two, layout):
    ui, (source, _) = panel.ui, two
    other, third = makeVolume(name="other"), makeVolume(name="third")
    made = addResult(other, 1)
    ui.compareButton.click()
    panel.parameterNode.resultVolume = made
    ui.inputSelector.setCurrentNode(other)
    composite = layout.sliceLogic(ORIGINAL_VIEW).GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == other.GetID()
    ui.inputSelector.setCurrentNode(third)
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
    assert not ui.compareButton.checked
    ui.inputSelector.setCurrentNode(source)
    panel.results.show(source, two[1][0])
    ui.compareButton.click()
    slicer.mrmlScene.RemoveNode(two[1][0])
    assert not panel.comparison.isShown


def test_compare_can_be_left_without_a_selection(panel, two, layout):
    panel.ui.compareButton.click()
    panel.ui.resultsTable.setCurrentCell(-1, -1)
    assert panel.ui.compareButton.enabled
    panel.ui.compareButton.click()
    assert not panel.comparison.isShown


def test_a_sequence_at_another_time_point_is_not_compared(panel, two, layout, qapp):
    ui, (source, _) = panel.ui, two
    ui.compareButton.click()
    ui.flickerButton.click()
    slicer.util.arrayFromVolume(source)[0] += 1
    until(qapp, lambda: not panel.comparison.isShown)
    assert "has other voxels" in ui.seeingLabel.text
    assert not ui.flickerButton.checked
    assert ui.fadeSlider.value == 0
    ui.compareButton.click()
    assert not panel.comparison.isShown
    assert not ui.compareButton.checked
    slicer.util.arrayFromVolume(source)[0] -= 1
    ui.compareButton.click()
    assert panel.comparison.isShown
    assert ui.seeingLabel.text == ""
    slicer.util.arrayFromVolume(source)[0] += 1
    ui.differenceButton.click()
    assert "has other voxels" in ui.seeingLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3
