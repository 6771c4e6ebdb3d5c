"""Next case and scores: strategies on a real datastore, and the routes of a real server."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from cfmri_server.datastore import ContainedDatastore
from cfmri_server.scores import ScoreWriter
from cfmri_server.served_models import ServedModels
from cfmri_server.state import StateFolder
from lib.activelearning.acquisition_coverage import AcquisitionCoverage
from lib.activelearning.counterfactual_disagreement import CounterfactualDisagreement
from lib.scoring.counterfactual_disagreement import CounterfactualDisagreement as Scoring
from lib.scoring.dice import Dice

from app.answers import refusal
from cfmri_core.io.nifti import read_nifti, sidecar_of, write_nifti
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.simulation.protocols import PRESETS

STRATEGIES = {"random", "acquisition_coverage", "counterfactual_disagreement"}
SCANNERS = {"ge-1": "ge-hdx-3t", "ge-2": "ge-hdx-3t", "siemens": "siemens-avanto-1.5t"}


@pytest.fixture
def folder(tmp_path, studies):
    """Three images; one has a label."""
    scan = read_nifti(next(studies.glob("*/labels.nii.gz")))
    for number, (name, protocol) in enumerate(SCANNERS.items()):
        image = scan.with_voxels(100.0 * (scan.voxels + 1) + number)
        write_nifti(tmp_path / f"{name}.nii.gz", image, sidecar_of(PRESETS[protocol]))
    write_nifti(tmp_path / "labels" / "final" / "ge-1.nii.gz", scan, None)
    return tmp_path


@pytest.fixture
def datastore(folder):
    return ContainedDatastore(folder, auto_reload=False, read_only=False)


@pytest.fixture
def served(folder):
    """The shipped models."""
    return ServedModels(StateFolder.of(folder))


def scored(served, datastore, **values):
    scoring = Scoring(served)
    files = {name: scoring.files(datastore)[name] for name in values}
    writer = ScoreWriter(scoring.file.path, scoring.model_checksums(), files)
    for name, value in values.items():
        writer.add(name, value)
    writer.end("done")
    return scoring


def test_coverage_chooses_the_scanner_that_has_no_label(datastore):
    answer = AcquisitionCoverage()({}, datastore)
    assert (answer["id"], answer["chosen_by"], answer["unlabeled"]) == ("siemens", "acquisition_coverage", 2)


@pytest.mark.parametrize("acquisition", [5, "x", [1], {"echo_time_ms": [1]}, {"patient": 1}])
def test_an_acquisition_that_is_none_tells_nothing(datastore, folder, acquisition):
    (folder / "siemens.json").unlink()
    datastore._datastore.objects["siemens"].image.info["acquisition"] = acquisition
    assert AcquisitionCoverage()({}, datastore)["id"] in ("ge-2", "siemens")


def test_disagreement_chooses_by_the_stored_scores(datastore, served):
    answer = CounterfactualDisagreement(scored(served, datastore, **{"ge-2": 0.4, "siemens": 0.1}))({}, datastore)
    assert (answer["id"], answer["scored"], answer["message"]) == ("siemens", 2, "")  # no label is of that scanner
    partly = CounterfactualDisagreement(Scoring(served))({"exclude": ["siemens"]}, datastore)
    assert partly["id"] == "ge-2"


def test_without_scores_it_goes_by_coverage_and_says_so(datastore, served, folder):
    strategy = CounterfactualDisagreement(Scoring(served))
    answer = strategy({}, datastore)
    assert (answer["id"], answer["chosen_by"]) == ("siemens", "acquisition_coverage")
    assert "POST /scoring/counterfactual_disagreement" in answer["message"]
    strategy = CounterfactualDisagreement(scored(served, datastore, **{"ge-2": 0.4}))
    assert "1 images have no score" in strategy({}, datastore)["message"]
    Segmenter.create("tiny").save(folder / "retrained", "Untrained.")
    served.store.publish("segmenter", folder / "retrained")
    assert strategy({}, datastore)["chosen_by"] == "acquisition_coverage"


def test_a_labelled_image_is_never_chosen(datastore, folder):
    for name in ("ge-2", "siemens"):
        shutil.copyfile(folder / "labels/final/ge-1.nii.gz", folder / f"{name}-label.nii.gz")
        datastore.save_label(name, str(folder / f"{name}-label.nii.gz"), "final", {})
    assert AcquisitionCoverage()({}, datastore) is None


def test_disagreement_is_scored_for_unlabelled_images_and_a_bad_one_costs_no_other(datastore, served, folder):
    (folder / "ge-2.nii.gz").write_bytes(b"no image")
    scoring = Scoring(served)
    progress = scoring({"method": scoring.name, "device": "cpu"}, datastore)
    assert (progress["state"], progress["scored"], progress["failed"], progress["images"]) == ("done", 1, 1, 2)
    files = scoring.files(datastore)
    values = scoring.file.scores(scoring.model_checksums(), files)
    assert set(values) == {"siemens"}
    assert -1 < values["siemens"] < 1
    assert scoring.info()["progress"]["scored"] == 1


def test_dice_is_that_of_the_segmenter_in_use_against_the_label(datastore, served, folder):
    scoring = Dice(served)
    scoring({"device": "cpu"}, datastore)
    values = scoring.file.scores(scoring.model_checksums(), scoring.files(datastore))
    found = segment_volume(read_nifti(folder / "ge-1.nii.gz"), served.segmenter.get("cpu"))
    write_nifti(folder / "labels" / "final" / "ge-1.nii.gz", found, None)
    assert set(values) == {"ge-1"}
    assert scoring.file.scores(scoring.model_checksums(), scoring.files(datastore)) == {}  # the label is another one
    scoring({"device": "cpu"}, datastore)
    assert scoring.file.scores(scoring.model_checksums(), scoring.files(datastore)) == {"ge-1": 1.0}


@pytest.fixture
def unlabelled(server):
    """An unlabelled image on the server."""
    content = (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()
    assert server.http.put("/datastore/?image=fresh", files={"file": ("u.nii.gz", content)}).is_success
    yield "fresh"
    server.http.delete("/datastore/image?id=fresh")


def test_info_lists_strategies_and_scoring_methods(server):
    info = server.http.get("/info/").json()
    assert set(info["strategies"]) == STRATEGIES
    assert set(info["scoring"]) == {"counterfactual_disagreement", "dice"}
    assert all(entry["description"] for entry in [*info["strategies"].values(), *info["scoring"].values()])


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_the_next_case_is_named_without_a_path(server, unlabelled, strategy):
    answer = server.http.post(f"/activelearning/{strategy}", json={"client_id": "reader-1"})
    assert answer.is_success, answer.text
    assert answer.json()["id"] == unlabelled
    assert answer.json()["name"].startswith(unlabelled)
    assert str(server.studies) not in answer.text
    assert "path" not in answer.json()
    assert server.http.post(f"/activelearning/{strategy}", json={"exclude": [unlabelled]}).json() == {}


def test_nothing_is_left_where_everything_is_labelled(server):
    for strategy in STRATEGIES:
        assert server.http.post(f"/activelearning/{strategy}").json() == {}


def test_what_cannot_be_asked_for_is_refused(server):
    refusal(server.http.post("/activelearning/magic", json={}), 404)
    refusal(server.http.post("/scoring/magic", json={}), 404)
    refusal(server.http.get("/scoring/progress/magic"), 404)
    assert refusal(server.http.post("/activelearning/random", json={"seed": -1}), 422)["field"] == "seed"
    assert refusal(server.http.post("/scoring/dice", json={"y": "/etc"}), 422)["field"] == "y"


def test_a_scoring_runs_in_a_process_of_its_own_and_tells_how_far_it_is(server):
    assert server.http.get("/scoring/progress/dice").json()["state"] == "none"
    started = server.http.post("/scoring/dice", json={})
    assert started.is_success, started.text
    assert server.http.get("/scoring/progress/dice").json()["state"] == "running"
    assert server.http.post("/scoring/dice", json={}).status_code == 429
    deadline = time.monotonic() + 200
    while (progress := server.http.get("/scoring/progress/dice").json())["state"] == "running":
        assert time.monotonic() < deadline, progress
        time.sleep(0.2)
    assert (progress["state"], progress["scored"]) == ("done", 2), progress
    content = json.loads((server.studies / ".monailabel/scores/dice.json").read_text())
    assert set(content["scores"]) == {"sub-0001", "sub-0002"}
    assert "sub-0001" not in server.output.read_text()
    assert server.http.get("/scoring/").json()["details"] == []  # what its process wrote is not told
    assert [task["details"] for task in server.http.get("/scoring/?all=true").json()] == [[]]
