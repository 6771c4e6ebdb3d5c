"""Which models there are, publishing one that was held back, and going back: in one call each."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from cfmri_server.model_store import ModelStore
from lib.trainers.run_folder import RunFolder

from app.answers import refusal
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.segmenter import Segmenter


@pytest.fixture
def state(server):
    """The server's folder, with nothing published and nothing waiting before and after the test."""
    folder = server.studies / ".monailabel"
    forget(folder)
    yield folder
    forget(folder)


def forget(folder):
    (folder / "models" / "segmenter.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "training" / "tissue_segmenter" / "run", ignore_errors=True)


@pytest.fixture
def trained(tmp_path):
    """Model folders with other weights than those in use."""

    def make(seed):
        torch.manual_seed(seed)
        Segmenter.create("tiny").save(tmp_path / f"{seed}", "Untrained, for tests.")
        return tmp_path / f"{seed}"

    return make


def checksum(server):
    return server.http.get("/model/info/tissue_segmenter").json()["checksum"]


def last_event(state):
    return json.loads((state / "audit" / "audit.jsonl").read_text().splitlines()[-1])


def test_the_shipped_model_is_version_0(server, models):
    listed = server.http.get("/models/iap_predictor").json()
    assert (listed["kind"], listed["in_use"], listed["candidate"]) == ("iap_predictor", 0, None)
    assert listed["versions"] == [
        {"version": 0, "sha256": weights_sha256(models / "iap_predictor"), "follows": None, "published": None,
         "comparison": None, "in_use": True},
    ]  # fmt: skip
    assert server.http.get("/models/counterfactual").json()["kind"] == "editor"
    refusal(server.http.get("/models/nothing"), 404)


def test_roll_back_is_one_call_and_served_at_the_next_request(server, state, trained):
    shipped = checksum(server)
    store = ModelStore(state / "models")
    for seed in (11, 12):
        store.publish("segmenter", trained(seed), {"metric": "Dice", "candidate": 0.8, "current": 0.7, "patients": 2})
    second = checksum(server)
    listed = server.http.post("/models/tissue_segmenter/rollback").json()
    assert listed["in_use"] == 1
    assert [version["in_use"] for version in listed["versions"]] == [False, True, False]
    assert listed["versions"][2]["comparison"]["candidate"] == 0.8
    assert checksum(server) not in (shipped, second)
    answer = server.http.post("/infer/tissue_segmenter?image=sub-0001&output=json")
    assert answer.is_success
    assert server.http.post("/models/tissue_segmenter/rollback").json()["in_use"] == 0
    assert checksum(server) == shipped
    refusal(server.http.post("/models/tissue_segmenter/rollback"), 422)


def test_a_model_that_was_not_published_waits_and_can_be(server, state, trained):
    refusal(server.http.post("/models/tissue_segmenter/publish"), 404)
    run = RunFolder(state / "training" / "tissue_segmenter" / "run")
    shutil.copytree(trained(13), run.model)
    run.finish({"metric": "Dice", "candidate": 0.7, "current": 0.8, "patients": 2})
    waiting = server.http.get("/models/tissue_segmenter").json()["candidate"]
    assert waiting["comparison"]["current"] == 0.8
    listed = server.http.post("/models/tissue_segmenter/publish").json()
    assert (listed["in_use"], listed["candidate"]) == (1, None)
    assert listed["versions"][1]["sha256"] == waiting["sha256"]
    in_use = {"model": "tissue_segmenter", "kind": "segmenter", "sha256": waiting["sha256"]}
    assert (last_event(state)["action"], last_event(state)["in_use"]) == ("publish model", in_use)
    server.http.post("/models/tissue_segmenter/rollback")
    in_use["sha256"] = listed["versions"][0]["sha256"]
    assert (last_event(state)["action"], last_event(state)["in_use"]) == ("roll back model", in_use)
    assert server.http.get("/models/tissue_segmenter").json()["candidate"]["sha256"] == waiting["sha256"]
