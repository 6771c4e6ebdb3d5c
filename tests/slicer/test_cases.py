import numpy as np
import pytest
import slicer
from CounterfactualMRILib import acquisition, cases
from CounterfactualMRILib.exchange import ExchangeProblem
from mrml_fixtures import affineOf, imageOf, makeVolume, oblique

SERVER = "http://127.0.0.1:8000"


def test_a_case_is_shown_and_knows_where_it_comes_from():
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    node = cases.insertCase(imageOf(voxels, oblique()), (2.0, 20.0), "sub-1", SERVER, {"echo_time_ms": 2.4})
    assert node.GetName() == "sub-1"
    assert slicer.mrmlScene.IsNodePresent(node)
    assert np.array_equal(slicer.util.arrayFromVolume(node), voxels)
    assert np.allclose(affineOf(node), oblique())
    assert (node.GetDisplayNode().GetWindow(), node.GetDisplayNode().GetLevel()) == (18, 11)
    assert acquisition.readAcquisition(node) == {"echo_time_ms": 2.4}
    assert acquisition.whereFrom(node) == "as the server knows them"
    assert cases.imageIdOf(node, SERVER) == "sub-1"
    assert cases.imageIdOf(node, "https://other") == ""


def test_of_a_volume_that_is_no_case_nothing_is_known():
    node = makeVolume()
    assert cases.imageIdOf(node, SERVER) == ""
    assert acquisition.readAcquisition(node) == {}
    assert acquisition.whereFrom(node) == "from the DICOM header"
    cases.markCase(node, "random", SERVER)
    assert cases.imageIdOf(node, SERVER) == "random"


@pytest.mark.parametrize("role", ["Synthetic", "Difference", "Uncertainty"])
def test_what_was_made_here_is_no_image_for_a_server(role):
    node = makeVolume()
    cases.requireStorable(node, "http://a", mayStore=True)
    node.SetAttribute(f"CounterfactualMRI.{role}", "true")
    with pytest.raises(ExchangeProblem, match="acquired images only"):
        cases.requireStorable(node, "http://a", mayStore=True)
