import numpy as np
import pytest
import slicer
from CounterfactualMRILib.layout import (
    BLINDED_LAYOUT_ID,
    COUNTERFACTUAL_VIEW,
    DIFFERENCE_VIEW,
    LAYOUT_ID,
    LAYOUT_WITH_DIFFERENCE_ID,
    ORIGINAL_VIEW,
    Comparison,
    acquisitionOrientation,
    registerLayouts,
    showInSliceViews,
    sliceInView,
)
from mrml_fixtures import affineOf, makeVolume, oblique


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


def slab(source, first, last):
    """Some slices of a volume, as a preview makes them."""
    affine = affineOf(source)
    affine[:, 3] = affine @ [0, 0, first, 1]
    return makeVolume(slicer.util.arrayFromVolume(source)[first:last].copy(), affine, "[synthetic] breast")


def straight():
    return makeVolume(affine=np.diag([0.7, 0.8, 2.0, 1.0]))


def test_a_previewed_slice_and_its_source_are_shown_at_the_same_place(layout):
    comparison, source = Comparison(), straight()
    made = slab(source, 9, 10)
    comparison.show(source, made)
    views = [layout.sliceLogic(name) for name in (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW)]
    comparison.show(source, made)
    assert [view.GetSliceOffset() for view in views] == pytest.approx([18, 18])
    centres = [[view.GetSliceNode().GetSliceToRAS().GetElement(row, 3) for row in range(3)] for view in views]
    assert centres[0] == pytest.approx(centres[1])
    assert len({view.GetSliceNode().GetFieldOfView()[:2] for view in views}) == 1
    assert sliceInView(source) == 9


def test_the_slice_in_view_stays_while_the_result_has_it(layout):
    comparison, source = Comparison(), straight()
    whole = slab(source, 0, 12)
    comparison.show(source, whole)
    views = [layout.sliceLogic(name) for name in (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW)]
    comparison.show(source, whole)
    for view in views:
        view.SetSliceOffset(6)
    comparison.show(source, whole, whole)
    assert layout.sliceLogic(DIFFERENCE_VIEW) is not None
    comparison.show(source, whole, whole)
    views.append(layout.sliceLogic(DIFFERENCE_VIEW))
    assert [view.GetSliceOffset() for view in views] == pytest.approx([6, 6, 6])
    comparison.show(source, slab(source, 8, 9))
    assert [view.GetSliceOffset() for view in views[:2]] == pytest.approx([16, 16])


def test_the_slice_in_view_is_that_of_views_that_can_be_seen(layout):
    comparison, source = Comparison(), straight()
    comparison.show(source, source)
    hidden = layout.sliceLogic(ORIGINAL_VIEW)
    comparison.show(source, source)
    hidden.SetSliceOffset(6)
    assert sliceInView(source) == 3
    comparison.restore()
    layout.sliceLogic("Red").SetSliceOffset(14)
    assert sliceInView(source) == 7


def test_a_view_that_was_turned_into_the_plane_of_the_volume_counts(layout):
    source, red = makeVolume(), layout.sliceLogic("Red")
    for name in ("Green", "Yellow"):
        layout.sliceLogic(name)
    for index in (0, 5, 11):
        red.GetSliceNode().RotateToVolumePlane(source)
        assert red.GetSliceNode().GetOrientation() == "Reformat"
        red.GetSliceNode().JumpSliceByOffsetting(*(affineOf(source) @ [10, 15, index, 1])[:3])
        assert sliceInView(source) == index


def test_a_volume_is_shown_in_all_slice_views(layout):
    views = [layout.sliceLogic(name) for name in ("Red", "Green", "Yellow")]
    volume = straight()
    showInSliceViews(volume)
    for view in views:
        assert view.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
    assert views[0].GetSliceOffset() == pytest.approx(11, abs=1.1)


def test_a_scene_that_was_saved_while_comparing_can_be_left(layout):
    registerLayouts()
    layout.node.SetViewArrangement(LAYOUT_ID)
    comparison = Comparison()
    assert comparison.isShown
    comparison.restore()
    assert layout.node.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView


def test_all_layouts_are_known_from_the_start_and_without_views_nothing_happens(scene, layout):
    registerLayouts()
    for number in (LAYOUT_ID, LAYOUT_WITH_DIFFERENCE_ID, BLINDED_LAYOUT_ID):
        assert layout.node.IsLayoutDescription(number)
    scene.RemoveNode(layout.node)
    registerLayouts()


def test_a_slice_view_without_a_singleton_tag_counts_too(layout):
    source, red = straight(), layout.sliceLogic("Red")
    for name in ("Red", "Green", "Yellow"):
        slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode"))
    red.SetSliceNode(None)
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetLayoutName("Another extension's")
    view.SetOrientation("Axial")
    view.SetSliceOffset(8)
    assert sliceInView(source) == 4
