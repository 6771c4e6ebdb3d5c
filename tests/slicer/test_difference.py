"""The signed difference map, on real MRML."""

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import difference, results
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.logic import CounterfactualMRILogic
from mrml_fixtures import affineOf, makeVolume, unscened


def counterfactualOf(source, change, slab=slice(None)):
    voxels = slicer.util.arrayFromVolume(source).astype(np.float32)[slab] + change
    affine = affineOf(source).copy()
    affine[:3, 3] += affine[:3, 2] * (slab.start or 0)
    return results.insertCounterfactual(unscened(voxels, affine), source, {"changes": {}}, "1")


def inserted(counterfactual):
    return CounterfactualMRILogic().insertDifference(counterfactual)


def test_it_is_counterfactual_minus_source_with_a_symmetric_scale():
    source = makeVolume()
    node = inserted(counterfactualOf(source, -40.0))
    assert slicer.util.arrayFromVolume(node) == pytest.approx(-40.0)
    display = node.GetDisplayNode()
    assert display.GetLevel() == 0
    assert display.GetWindow() == pytest.approx(80)
    assert node.GetName().startswith("[synthetic] difference")


def test_no_change_is_white_and_the_ends_are_blue_and_red():
    colors = inserted(counterfactualOf(makeVolume(), 1.0)).GetDisplayNode().GetColorNode()
    ends = []
    for index in (0, 127, 255):
        color = [0.0] * 4
        colors.GetColor(index, color)
        ends.append(color)
    assert ends[0][2] == ends[2][0] == 1.0
    assert ends[0][0] == ends[2][2] == 0.0
    assert min(ends[1][:3]) > 0.98


def test_it_has_a_colour_bar_and_is_found_again():
    counterfactual = counterfactualOf(makeVolume(), 5.0)
    node = inserted(counterfactual)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 1
    assert difference.differenceOf(counterfactual) is node


def test_of_a_slab_the_same_slices_of_the_source_are_taken():
    source = makeVolume()
    node = inserted(counterfactualOf(source, 3.0, slice(4, 6)))
    assert slicer.util.arrayFromVolume(node) == pytest.approx(3.0)
    assert np.allclose(affineOf(node)[:3, 3], affineOf(source)[:3, 3] + 4 * affineOf(source)[:3, 2])


def test_without_its_source_there_is_none():
    source = makeVolume()
    counterfactual = counterfactualOf(source, 3.0)
    slicer.mrmlScene.RemoveNode(source)
    with pytest.raises(ExchangeProblem, match="removed"):
        inserted(counterfactual)


def test_a_source_that_was_moved_is_noticed():
    source = makeVolume()
    counterfactual = counterfactualOf(source, 3.0)
    source.SetOrigin(0, 0, 0)
    with pytest.raises(ExchangeProblem, match="grid"):
        inserted(counterfactual)


def test_it_goes_with_its_counterfactual():
    counterfactual = counterfactualOf(makeVolume(), 3.0)
    node = inserted(counterfactual)
    results.remove(counterfactual)
    assert not slicer.mrmlScene.IsNodePresent(node)
    assert not slicer.mrmlScene.IsNodePresent(counterfactual)
