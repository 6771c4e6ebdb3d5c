import pytest
from CounterfactualMRILib.logic import CounterfactualMRILogic
from mrml_fixtures import makeVolume


def test_values_live_in_the_scene_and_are_checked():
    first, second = CounterfactualMRILogic().getParameterNode(), CounterfactualMRILogic().getParameterNode()
    assert (first.inputVolume, first.requested, first.training) == (None, "{}", "{}")
    volume = makeVolume()
    first.inputVolume, first.training = volume, '{"epochs": 3}'
    assert second.inputVolume is volume
    assert second.training == '{"epochs": 3}'
    with pytest.raises(TypeError, match="training"):
        first.training = 3
    with pytest.raises(TypeError, match="inputVolume"):
        first.inputVolume = "a volume"
