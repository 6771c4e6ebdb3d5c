"""The map of half-widths, on real MRML."""

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import results, uncertainty
from CounterfactualMRILib.exchange import ExchangeProblem
from mrml_fixtures import affineOf, imageOf, makeVolume, unscened

EVIDENCE = {"changes": {}, "uncertainty": {"level": 0.9, "calibrated": True, "mean_half_width": 12.34}}


def counterfactual():
    source = makeVolume()
    voxels = slicer.util.arrayFromVolume(source).astype(np.float32)
    return results.insertCounterfactual(unscened(voxels, affineOf(source)), source, EVIDENCE, "1")


def inserted(node, affine=None):
    widths = imageOf(np.full((12, 30, 20), 7.0, np.float32), affineOf(node) if affine is None else affine)
    return uncertainty.insertUncertainty(widths, (4.0, 14.0), node, EVIDENCE)


def test_it_is_named_marked_and_has_a_colour_bar_with_its_unit():
    node = counterfactual()
    made = inserted(node)
    assert made.GetName() == "[synthetic] breast uncertainty"
    assert uncertainty.uncertaintyOf(node) is made
    assert not results.isSynthetic(made)
    assert made.GetAttribute("CounterfactualMRI.Quantity") == "half-width of the 90% interval"
    assert made.GetAttribute("CounterfactualMRI.Unit") == "intensity of the source"
    display = made.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel()) == (10, 9)
    legend = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLColorLegendDisplayNode")
    assert legend.GetTitleText() == "± intensity, 90%"
    assert slicer.util.arrayFromVolume(made) == pytest.approx(7.0)


def test_it_lies_in_the_folder_of_its_counterfactual():
    node = counterfactual()
    made = inserted(node)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parents = {tree.GetItemParent(tree.GetItemByDataNode(one)) for one in (node, made)}
    assert len(parents) == 1
    assert tree.GetItemName(parents.pop()) == "Counterfactual MRI: breast"


def test_it_goes_with_its_counterfactual():
    node = counterfactual()
    made = inserted(node)
    results.remove(node)
    assert not slicer.mrmlScene.IsNodePresent(made)


def test_a_map_off_the_grid_is_refused():
    node = counterfactual()
    with pytest.raises(ExchangeProblem, match="grid"):
        inserted(node, np.eye(4))
    assert uncertainty.uncertaintyOf(node) is None


def test_colours_rise_from_dark_to_yellow():
    ends = [uncertainty._color(place) for place in (0.0, 0.5, 1.0)]
    assert sum(ends[0]) < sum(ends[1]) < sum(ends[2])
    assert all(0 <= component <= 1 for color in ends for component in color)


def test_it_is_put_into_words():
    assert uncertainty.inWords({}) == ""
    assert uncertainty.inWords({"uncertainty": "much"}) == ""
    words = uncertainty.inWords(EVIDENCE)
    assert "± 12.3" in words
    assert "90% interval" in words
    assert "calibrated on paired truth" in words
    assert "not calibrated" in uncertainty.inWords({"uncertainty": {"mean_half_width": 1.0, "calibrated": False}})
    other = {"mean_half_width": 1.0, "calibrated": False, "calibration_subjects": 40}
    assert "for other settings only" in uncertainty.inWords({"uncertainty": other})
