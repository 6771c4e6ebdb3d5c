import pytest
from CounterfactualMRILib.logic import CounterfactualMRILogic
from mrml_fixtures import makeVolume


def test_values_live_in_the_scene_and_are_checked():
    first, second = CounterfactualMRILogic().getParameterNode(), CounterfactualMRILogic().getParameterNode()
    assert (first.inputVolume, first.requested, first.augmentation, first.epochs) == (None, "{}", "counterfactual", 10)
    volume = makeVolume()
    first.inputVolume, first.epochs = volume, 3
    assert second.inputVolume is volume
    assert second.epochs == 3
    with pytest.raises(ValueError, match="epochs"):
        first.epochs = 0
    with pytest.raises(ValueError, match="augmentation"):
        first.augmentation = "mixup"
