import numpy as np
import slicer
from CounterfactualMRILib import volume_display
from mrml_fixtures import makeVolume


def test_single_voxels_do_not_decide_the_scale():
    values = np.full(10_000, 2.0)
    values[0] = 500
    assert volume_display.displayLimit(values) == 2.0
    assert volume_display.displayLimit(-values) == 2.0
    assert volume_display.displayLimit(np.zeros(10)) == 1.0


def test_the_range_spans_the_bulk_of_the_values():
    assert volume_display.displayRange(np.arange(1001).reshape(7, 11, 13)) == (5.0, 995.0)
    low, high = volume_display.displayRange(np.full((2, 2, 2), 3.0))
    assert low == 3.0
    assert high > low


def test_a_sample_of_a_large_volume_is_enough():
    values = np.random.default_rng(0).random((50, 200, 300), np.float32)
    assert abs(volume_display.displayLimit(values) - 0.995) < 0.002


def test_a_fixed_window_is_shown_as_given():
    node = makeVolume()
    volume_display.showVolume(node, 30, 15)
    display = node.GetDisplayNode()
    assert (display.GetWindow(), display.GetLevel(), display.GetAutoWindowLevel()) == (30, 15, 0)
    assert display.GetColorNode().GetName() == "Grey"


def test_a_colour_table_is_made_once():
    table = volume_display.colorTable("test", lambda place: (place, 0.0, 0.0))
    assert volume_display.colorTable("test", None) is table
    assert slicer.mrmlScene.GetSingletonNode("test", "vtkMRMLColorTableNode") is table
    assert table.GetHideFromEditors()
