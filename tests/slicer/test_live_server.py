"""The whole loop against a real `cfmri serve`, over HTTP: what a user of the panel does."""

import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import slicer
from CounterfactualMRI import CounterfactualMRIWidget
from CounterfactualMRILib import cases, jobs, nifti, problems, results, segmentation
from CounterfactualMRILib.acquisition import readAcquisition
from CounterfactualMRILib.client import Client
from CounterfactualMRILib.datastore import Datastore
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.layout import COUNTERFACTUAL_VIEW, ORIGINAL_VIEW
from CounterfactualMRILib.logic import CounterfactualMRILogic
from CounterfactualMRILib.problems import ServerProblem
from CounterfactualMRILib.uncertainty import uncertaintyOf
from event_loop import until
from live_server import running
from measure_event_loop import LIMIT_MS, measured
from mrml_fixtures import affineOf, makeVolume, oblique, toMatrix

# Simulating, starting and training take a minute on two idle cores, and many on busy ones.
pytestmark = pytest.mark.timeout(1200)


def loadStudy(live_studies, name="scan"):
    """The first simulated study as a volume node, with a DICOM database that knows its header."""
    from cfmri_core.data.studies import list_studies
    from cfmri_core.dicom.read import read_series

    series = read_series(list_studies(live_studies)[0].scan_path)
    volume = makeVolume(np.ascontiguousarray(series.volume.voxels.transpose(2, 1, 0)), series.volume.affine, name)
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(header.SOPInstanceUID for header in series.headers))
    return volume, series


class Database:
    """ctkDICOMDatabase over the headers of one series."""

    isOpen = True

    def __init__(self, headers):
        self.headers = {header.SOPInstanceUID: header for header in headers}

    def instanceValue(self, uid, tag):
        element = self.headers[uid].get(tuple(int(part, 16) for part in tag.split(",")))
        if element is None or element.value is None:
            return ""
        values = element.value if element.VM > 1 else [element.value]
        return "\\".join(str(value) for value in values)


@pytest.fixture
def study(live_studies, monkeypatch):
    volume, series = loadStudy(live_studies)
    monkeypatch.setattr(slicer, "dicomDatabase", Database(series.headers), raising=False)
    return volume


@pytest.fixture
def logic(live_server):
    return CounterfactualMRILogic(live_server)


def otherEchoTime(logic, volume):
    return round(readAcquisition(volume)["echo_time_ms"] * 0.8, 3)


def farCorner(node):
    return affineOf(node) @ [*np.array(node.GetImageData().GetDimensions()) - 1, 1]


def test_the_server_describes_what_the_panel_needs(logic, live_server):
    server = logic.connectToServer()
    assert Client(live_server).health()["status"] == "ok"
    assert {"counterfactual", "iap_predictor", "tissue_segmenter"} <= set(server.models)
    assert len(server.models["counterfactual"].targets()) == 8
    assert {option.name for option in server.models["counterfactual"].options()} >= {"method", "seed", "slices"}
    assert [label.name for label in server.models["tissue_segmenter"].labels] == ["fat", "fibroglandular tissue"]
    assert "tissue_segmenter" in server.trainers


def test_counterfactual_of_a_slab(logic, study):
    changed = otherEchoTime(logic, study)
    node = logic.generateCounterfactual(study, {"echo_time_ms": changed, "steps": 4, "slices": "1:3", "seed": 5})
    assert node.GetName().startswith("[synthetic] scan")
    assert node.GetImageData().GetScalarTypeAsString() == "float"
    sizes, sourceSizes = node.GetImageData().GetDimensions(), study.GetImageData().GetDimensions()
    assert sizes == (*sourceSizes[:2], 2)
    assert np.abs(farCorner(node) - affineOf(study) @ [*np.array(sourceSizes[:2]) - 1, 2, 1]).max() < 1e-3
    evidence = json.loads(node.GetAttribute("CounterfactualMRI.Evidence"))
    assert evidence["synthetic"] is True
    assert list(evidence["changes"]) == ["echo_time_ms"]
    assert evidence["requested"]["echo_time_ms"] == changed
    assert f"TE {changed:g} ms" in node.GetName()
    assert evidence["seed"] == 5
    assert evidence["factual"]["repetition_time_ms"] > 0
    assert evidence["model"]["sha256"]
    assert results.sourceOf(node) is study


def test_counterfactual_to_the_same_parameters_is_the_source(logic, study):
    node = logic.generateCounterfactual(study, {"slices": "2", "steps": 4})
    source = slicer.util.arrayFromVolume(study)[2].astype(np.float64)
    result = slicer.util.arrayFromVolume(node)[0]
    assert np.abs(result - source).max() <= 1e-3 * (source.max() - source.min())


@pytest.mark.parametrize("case", ["oblique", "mirrored", "transformed"])
def test_whole_volume_geometry(logic, case):
    affine = oblique() if case == "oblique" else np.diag([-1.5, -1.5, 3.0, 1.0])
    volume = makeVolume((200 * np.random.default_rng(0).random((3, 24, 20))).astype(np.int16), affine)
    if case == "transformed":
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(toMatrix(oblique(spacing=(1, 1, 1), origin=(25, 0, 0))))
        volume.SetAndObserveTransformNodeID(transform.GetID())
    request = {"echo_time_ms": 1.5, "steps": 2, "factual": {"echo_time_ms": 2.4}}
    node = logic.generateCounterfactual(volume, request)
    assert node.GetImageData().GetDimensions() == volume.GetImageData().GetDimensions()
    assert np.abs(farCorner(node) - farCorner(volume)).max() < 1e-3
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()


def test_every_orientation_keeps_its_place(logic):
    """All 48 ways in which voxel axes can lie along the body, oblique, anisotropic and under a parent transform."""
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(toMatrix(oblique(spacing=(1, 1, 1), origin=(25, -3, 8))))
    voxels = (200 * np.random.default_rng(0).random((3, 24, 20))).astype(np.int16)
    ways = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
    worst = 0.0
    for first in range(0, len(ways), 8):  # as many at once as the server's queue has room for, and some
        jobs = []
        for axes, signs in ways[first : first + 8]:
            affine = oblique()
            affine[:3, :3] = affine[:3, :3][:, list(axes)] * signs
            shape = np.array([20, 24, 3])[list(axes)]
            volume = makeVolume(np.ascontiguousarray(voxels.reshape(-1)[: shape.prod()].reshape(shape[::-1])), affine)
            volume.SetAndObserveTransformNodeID(transform.GetID())
            request = {"echo_time_ms": 1.5, "factual": {"echo_time_ms": 2.4}}
            jobs.append((volume, logic.generateCounterfactual(volume, request, wait=False)))
        while logic.isBusy:
            logic.poll()
            time.sleep(0.02)
        for volume, job in jobs:
            node = job.wait()
            assert node.GetImageData().GetDimensions() == volume.GetImageData().GetDimensions()
            assert node.GetTransformNodeID() == transform.GetID()
            worst = max(worst, float(np.abs(farCorner(node) - farCorner(volume)).max()))
            results.remove(node)
            results.removeVolume(volume)
    assert len(ways) == 48
    assert worst < 1e-3


def test_predicted_parameters(logic, study):
    predicted = logic.predictParameters(study)
    assert predicted["field_strength_t"]["value"] in (1.5, 3.0)
    assert sum(predicted["field_strength_t"]["probabilities"].values()) == pytest.approx(1, abs=1e-3)


def test_segmentation(logic, study):
    node = logic.segment(study)
    segmentation = node.GetSegmentation()
    names = {segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())}
    assert names <= {"fat", "fibroglandular tissue"}
    assert names
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0


def test_a_refused_parameter_names_field_value_and_range(logic, study):
    before = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(ServerProblem) as caught:
        logic.generateCounterfactual(study, {"echo_time_ms": -1.0})
    problem = caught.value
    assert (problem.kind, problem.field, problem.value) == (problems.REJECTED, "echo_time_ms", -1.0)
    assert "1000" in problem.accepted
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    with pytest.raises(ServerProblem) as caught:
        logic.generateCounterfactual(study, {"slices": "5000"})
    assert caught.value.hint or caught.value.message


def test_cancel_on_the_server(logic, study, live_server):
    job = logic.generateCounterfactual(study, {"echo_time_ms": 1.3, "steps": 500}, wait=False)
    deadline = time.monotonic() + 60
    while (not job.steps or job.message.startswith("Sending")) and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.02)
    before = slicer.mrmlScene.GetNumberOfNodes()
    began = time.monotonic()
    job.cancel()
    while logic.isBusy and time.monotonic() < deadline:
        logic.poll()
        time.sleep(0.02)
    assert job.state == jobs.CANCELLED
    assert time.monotonic() - began < 5
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_anatomy_is_edited_where_an_roi_lies_and_nowhere_else(logic, study, live_studies):
    from cfmri_core.data.studies import list_studies, read_labels
    from cfmri_core.io.scan import read_scan

    first = list_studies(live_studies)[0]
    glands = np.argwhere(read_labels(first, read_scan(first.scan_path).volume).voxels == 2)
    middle = glands[np.linalg.norm(glands - glands.mean(axis=0), axis=1).argmin()]
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetSize(12, 12, 8)
    roi.SetCenter(*(affineOf(study) @ [*middle, 1])[:3])
    node = logic.edit("lesion_editor", study, {"mode": "insert", "steps": 2}, roi)
    assert node.GetName() == "[synthetic] scan (lesion inserted)"
    before, after = slicer.util.arrayFromVolume(study), slicer.util.arrayFromVolume(node)
    changed = np.argwhere(before != after)[:, ::-1]
    assert len(changed) > 10
    spacing = np.linalg.norm(affineOf(study)[:3, :3], axis=0)
    assert np.abs((changed - middle) * spacing).max() < 20
    less = logic.edit("structure_editor", study, {"delta": -0.2})
    assert less.GetName().startswith("[synthetic] scan (fibroglandular share ")
    assert np.abs(affineOf(less) - affineOf(study)).max() < 1e-3


def test_the_panel_from_connection_to_comparison(qapp, live_server, study, layout):
    panel = CounterfactualMRIWidget()
    ui = panel.ui
    ui.addressComboBox.currentText = live_server
    ui.testConnectionButton.click()
    until(qapp, lambda: not panel.display.isBusy, 30)
    assert ui.connectionLabel.text.startswith("Connected.")
    ui.inputSelector.setCurrentNode(study)
    assert "8 parameters from the DICOM header" in ui.acquisitionLabel.text
    row = panel.targets.rows["echo_time_ms"]
    row.checkBox.checked = True
    row.widget.value = 1.3
    panel.options.rows["slices"].widget.text = "2:4"
    ui.generateButton.click()
    until(qapp, lambda: not panel.display.isBusy, 60)
    assert "Made [synthetic] scan" in ui.statusLabel.text
    assert panel.comparison.isShown
    node = panel.parameterNode.resultVolume
    for name, volume in ((ORIGINAL_VIEW, study), (COUNTERFACTUAL_VIEW, node)):
        assert layout.sliceLogic(name).GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
    assert node.GetDisplayNode().GetWindow() == study.GetDisplayNode().GetWindow()
    ui.segmentButton.click()
    until(qapp, lambda: not panel.display.isBusy, 60)
    assert "Made scan tissue" in ui.statusLabel.text
    panel.cleanup()


def test_the_uncertainty_comes_with_the_counterfactual(logic, study):
    changed = otherEchoTime(logic, study)
    node = logic.generateCounterfactual(study, {"echo_time_ms": changed, "slices": "1:3", "uncertainty": True})
    widths = uncertaintyOf(node)
    assert widths.GetImageData().GetDimensions() == node.GetImageData().GetDimensions()
    assert np.abs(farCorner(widths) - farCorner(node)).max() < 1e-3
    assert slicer.util.arrayFromVolume(widths).min() > 0
    said = results.evidenceOf(node)["uncertainty"]
    assert said["level"] == 0.9
    inside = slicer.util.arrayFromVolume(widths)[slicer.util.arrayFromVolume(node) > 0]
    assert inside.min() < said["mean_half_width"] < inside.max()
    without = logic.generateCounterfactual(study, {"echo_time_ms": changed, "slices": "1:3"})
    assert uncertaintyOf(without) is None


@pytest.mark.flaky(reruns=2)
def test_the_event_loop_is_never_blocked(qapp, live_server, study, panel):
    """The whole loop at a moderate size; at full size: measure_event_loop.py."""
    steps = measured(qapp, panel, live_server, study, readAcquisition(study), {"slices": "1:3"})
    assert max(heartbeat.longestS for heartbeat in steps.values()) < LIMIT_MS / 1e3


def test_cases_are_labelled_until_none_is_left(logic, study, live_server):
    store = Datastore(Client(live_server))
    before = store.counts()
    case, counts, _ = logic.nextCase("random")
    assert str(counts) == str(before)
    assert counts.labelled < counts.total
    assert len(readAcquisition(case)) == 8
    tissue = logic.segment(case)
    after = logic.submitLabel(case, tissue)
    assert (after.labelled, after.total) == (before.labelled + 1, before.total)
    numbers, names = segmentation.segmentNumbers(tissue, case)
    labels = logic.server.models["tissue_segmenter"].labels
    sent = segmentation.labelImage(numbers, names, labels)
    assert np.array_equal(storedLabel(live_server, case.GetName()).voxels, sent.voxels)
    assert logic.nextCase("random")[0] is None


def test_a_volume_of_the_scene_becomes_a_case_of_the_server(logic, study, live_server):
    store = Datastore(Client(live_server))
    before = store.counts()
    tissue = logic.segment(study)
    with pytest.raises(ExchangeProblem, match="not on the server"):
        logic.submitLabel(study, tissue)
    assert store.counts() == before
    after = logic.submitLabel(study, tissue, mayStore=True)
    assert (after.labelled, after.total) == (before.labelled + 1, before.total + 1)
    assert logic.submitLabel(study, tissue) == after
    imageId = cases.imageIdOf(study, live_server)
    assert store.acquisition(imageId) == readAcquisition(study)
    assert storedLabel(live_server, imageId).voxels.any()


def storedLabel(address, imageId):
    """The label of an image as the server keeps it."""
    answer = requests.get(f"{address}/datastore/label?label={imageId}&tag=final", timeout=20)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "label"
        path.write_bytes(answer.content)
        return nifti.read(path)


def test_training_shows_progress_and_publishes_and_the_new_model_segments(qapp, live_server, study, layout):
    panel = CounterfactualMRIWidget()
    ui = panel.ui
    ui.addressComboBox.currentText = live_server
    ui.testConnectionButton.click()
    until(qapp, lambda: not panel.display.isBusy, 30)
    options = panel.training._controls.rows
    options["augmentation"].setValue("classical")
    options["epochs"].checkBox.checked = True
    options["epochs"].setValue(1)
    seen = set()

    def ended():
        seen.add(ui.trainStatusLabel.text.split(",")[0])
        return not panel.training.display.isBusy

    ui.trainButton.click()
    until(qapp, ended, 500)
    assert ui.trainStatusLabel.text.startswith("Trained. Epoch 1 of 1"), ui.trainStatusLabel.text
    assert len(seen) > 2
    assert panel.logic.segment(study).GetSegmentation().GetNumberOfSegments() > 0
    panel.cleanup()


def test_a_server_killed_in_the_middle_is_told_and_leaves_the_scene_alone(qapp, live_studies, live_models, tmp_path):
    own = shutil.copytree(live_studies, tmp_path / "studies", ignore=shutil.ignore_patterns(".*"))  # one server each
    with running(own, tmp_path / "output.txt", live_models) as (address, process):
        logic, (study, _) = CounterfactualMRILogic(address), loadStudy(live_studies)
        before = slicer.mrmlScene.GetNumberOfNodes()
        job = logic.generateCounterfactual(study, {"echo_time_ms": 1.3, "steps": 500}, wait=False)
        deadline = time.monotonic() + 60
        while (not job.steps or job.message.startswith("Sending")) and time.monotonic() < deadline:
            logic.poll()
            time.sleep(0.02)
        process.kill()
        with pytest.raises(ServerProblem) as caught:
            job.wait()
        assert caught.value.kind in (problems.LOST, problems.UNREACHABLE)
        assert caught.value.hint
    assert slicer.mrmlScene.GetNumberOfNodes() == before
