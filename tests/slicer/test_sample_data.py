import gzip
from pathlib import Path

import CounterfactualMRI
import numpy as np
import qt
import SampleData
import slicer
from CounterfactualMRILib import sample_data
from mrml_fixtures import niftiBytes, oblique
from scripted_server import Answer


def test_it_is_registered_when_the_application_has_started():
    class Parent:
        pass

    SampleData.sources.clear()
    CounterfactualMRI.CounterfactualMRI(Parent())
    assert SampleData.sources == []
    for slot in slicer.app.startupSlots:
        slot()
    (source,) = SampleData.sources
    assert (source["category"], source["name"]) == ("Counterfactual MRI", "Case of the cfmri server")
    assert Path(source["thumbnail"]).is_file()
    assert source["load"] is sample_data.loadSample


def test_it_loads_the_first_case_of_the_server_used_last(scripted, tmp_path):
    image = niftiBytes(np.ones((2, 3, 4), np.int16), oblique(), tmp_path)
    server = scripted(
        {
            ("GET", "/datastore/?output=all"): Answer(body={"objects": {"sub-2": {}, "sub-1": {}}}),
            ("GET", "/datastore/"): Answer(body={"completed": 2, "total": 2}),
            ("GET", "/datastore/image?image=sub-1"): Answer(body=gzip.compress(image)),
            ("GET", "/datastore/image/info?image=sub-1"): Answer(body={}),
        }
    )
    qt.QSettings().setValue("CounterfactualMRI/addresses", [server.address])
    (node,) = sample_data.loadSample()
    assert node.GetName() == "sub-1"
    assert slicer.util.arrayFromVolume(node).shape == (2, 3, 4)


def test_without_a_server_it_says_how_to_start_one(monkeypatch):
    said = []
    monkeypatch.setattr(slicer.util, "errorDisplay", said.append)
    qt.QSettings().setValue("CounterfactualMRI/addresses", ["http://127.0.0.1:9"])
    assert sample_data.loadSample() == []
    assert "cfmri serve" in said[0]
