import numpy as np
import pytest
import slicer
from CounterfactualMRILib.layout import (
    COUNTERFACTUAL_VIEW,
    LAYOUT_ID,
    ORIGINAL_VIEW,
    Comparison,
    acquisitionOrientation,
)
from mrml_fixtures import makeVolume, oblique


@pytest.fixture
def shown(layout):
    comparison = Comparison()
    pair = makeVolume(), makeVolume(name="[synthetic] breast")
    comparison.show(*pair)
    views = [layout.sliceLogic(name) for name in (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW)]
    comparison.show(*pair)
    return comparison, pair, views


def test_the_pair_is_shown_in_two_linked_views(shown, layout):
    comparison, pair, views = shown
    assert comparison.isShown
    assert layout.node.GetViewArrangement() == LAYOUT_ID
    for volume, view in zip(pair, views, strict=True):
        assert view.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
        assert view.GetSliceNode().GetViewGroup() == 71
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode") == 2
    original, counterfactual = views
    original.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    original.SetSliceOffset(12)
    original.EndSliceNodeInteraction()
    assert counterfactual.GetSliceOffset() == pytest.approx(12)


def test_window_and_level_follow_both_ways_until_the_layout_is_left(shown):
    comparison, (original, counterfactual), _ = shown
    original.GetDisplayNode().SetWindowLevel(500, 200)
    assert counterfactual.GetDisplayNode().GetWindow() == 500
    counterfactual.GetDisplayNode().SetWindowLevel(300, 100)
    assert original.GetDisplayNode().GetLevel() == 100
    comparison.restore()
    original.GetDisplayNode().SetWindowLevel(50, 20)
    assert counterfactual.GetDisplayNode().GetWindow() == 300


def test_the_earlier_layout_comes_back(shown, layout):
    comparison, pair, _ = shown
    comparison.show(*reversed(pair))
    comparison.restore()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
    comparison.restore()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


def test_a_layout_the_user_chose_meanwhile_stays(shown, layout):
    comparison, _, _ = shown
    layout.node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    comparison.restore()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_without_views_nothing_happens(scene):
    comparison = Comparison()
    comparison.show(makeVolume(), makeVolume())
    assert not comparison.isShown
    comparison.restore()


@pytest.mark.parametrize(
    ("axes", "orientation"), [((0, 1, 2), "Axial"), ((0, 2, 1), "Coronal"), ((1, 2, 0), "Sagittal")]
)
def test_the_plane_of_acquisition(axes, orientation):
    affine = np.eye(4)
    affine[:3, :3] = oblique(origin=(0, 0, 0))[:3, :3][list(np.argsort(axes))]
    volume = makeVolume(affine=affine)
    assert acquisitionOrientation(volume) == orientation
