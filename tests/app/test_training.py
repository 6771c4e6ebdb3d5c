"""Training over HTTP: one short run from request to published model, and one that is stopped and goes on."""

from __future__ import annotations

import json
import time

import pytest
from cfmri_server.audit import verify

from app.answers import refusal


def checksum(server) -> str:
    return server.http.get("/model/info/tissue_segmenter").json()["checksum"]


def wait_for_training(server, *states, timeout_s=280):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        progress = server.http.get("/train/progress/tissue_segmenter").json()
        if progress["state"] in states:
            return progress
        time.sleep(0.2)
    raise AssertionError(f"Training did not become {states}: {progress}")


def wait_for_kept_epoch(server):
    wait_for_training(server, "running")
    while not server.http.get("/train/progress/tissue_segmenter").json()["kept_epoch"]:
        time.sleep(0.2)


def wait_until_idle(server):
    while server.http.get("/train/?check_if_running=true").is_success:
        time.sleep(0.1)


def test_nothing_is_told_before_the_first_training(server):
    progress = server.http.get("/train/progress/counterfactual").json()
    assert progress["state"] == "none"
    assert set(progress) >= {"epoch", "epochs", "loss", "metric", "eta_s", "curve", "published", "comparison"}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 10**9}, "epochs"),
        ({"augmentation": "magic"}, "augmentation"),
        ({"output": "/etc"}, "output"),
        ({"model": "counterfactual"}, "model"),
        ({"population": "/etc/passwd.json"}, "population"),
        ({"publish": "maybe"}, "publish"),
        ({"resume": "perhaps"}, "resume"),
    ],
)
def test_what_cannot_be_trained_is_refused(server, params, field):
    assert refusal(server.http.post("/train/tissue_segmenter", json=params), 422)["field"] == field


def test_only_known_models_train_and_never_inside_the_server(server):
    refusal(server.http.post("/train/nothing", json={}), 404)
    refusal(server.http.get("/train/progress/nothing"), 404)
    refusal(server.http.post("/train/tissue_segmenter?run_sync=true", json={}), 422)
    refusal(server.http.post("/train/", json={}), 403)
    refusal(server.http.post("/scoring/nothing", json={}), 404)
    assert refusal(server.http.post("/scoring/dice", json={"bundle_path": "/"}), 422)["field"] == "bundle_path"


def test_options_are_listed_with_help(server):
    trainers = server.http.get("/info/").json()["trainers"]
    listed = {one["name"]: one for one in trainers["tissue_segmenter"]["config"]["parameters"]}
    assert set(listed) == {
        "augmentation", "counterfactuals_per_volume", "population", "epochs", "seed", "start", "preset", "resume",
        "publish",
    }  # fmt: skip
    assert all(one["help"] for one in listed.values())
    assert "duke" in listed["population"]["choices"]
    assert "fast has an editor of its own" in trainers["counterfactual"]["description"]


def test_training_reports_publishes_and_is_served(server):
    before = checksum(server)
    body = {"epochs": 1, "augmentation": "counterfactual", "counterfactuals_per_volume": 1, "seed": 3,
            "publish": "always", "population": "other-manufacturer"}  # fmt: skip
    task = server.http.post("/train/tissue_segmenter", json=body).json()
    assert task["request"]["augmentation"] == "counterfactual"
    busy = server.http.post("/train/counterfactual", json={})  # its process is not there yet
    assert not refusal(busy, 429)["message"].endswith("..")
    assert wait_for_training(server, "preparing", "running")["epochs"] == 1
    assert server.http.post("/train/counterfactual", json={}).status_code == 429
    assert server.http.post("/infer/iap_predictor?image=sub-0001").is_success
    done = wait_for_training(server, "done", "failed", "stopped")
    assert done["state"] == "done", done
    assert done["epoch"] == 1
    assert not any(task.get("details") for task in server.http.get("/train/?all=true").json())
    assert done["loss"] > 0
    assert 0 <= done["metric"] <= 1
    assert [row[0] for row in done["curve"]] == [1]
    assert done["published"] is True
    assert done["message"].startswith("Published: Dice")
    assert done["comparison"]["patients"] == 1
    after = checksum(server)
    assert after != before
    audit = server.studies / ".monailabel" / "audit" / "audit.jsonl"
    verify(audit)
    published = json.loads(audit.read_text().splitlines()[-1])
    assert published["published"]["sha256"] in after
    assert server.http.post("/infer/tissue_segmenter?image=sub-0001&output=json").is_success
    stats = server.http.get("/info/").json()["train_stats"]["tissue_segmenter"]
    assert (stats["state"], "curve" in stats) == ("done", False)
    assert server.http.post("/models/tissue_segmenter/rollback").json()["in_use"] == 0
    assert checksum(server) == before


def test_a_training_that_is_stopped_publishes_nothing_and_goes_on_when_asked_again(server):
    wait_until_idle(server)
    before = checksum(server)
    body = {"epochs": 500, "augmentation": "none"}
    server.http.post("/train/tissue_segmenter", json=body)
    wait_for_kept_epoch(server)
    assert server.http.delete("/train/").json()["status"] == "STOPPED"
    stopped = wait_for_training(server, "stopped", "failed")
    assert stopped["state"] == "stopped"
    kept = stopped["kept_epoch"]
    assert f"goes on after epoch {kept}" in stopped["message"]
    assert checksum(server) == before
    wait_until_idle(server)
    server.http.post("/train/tissue_segmenter", json=body)
    running = wait_for_training(server, "running")
    assert running["epoch"] >= kept
    assert [row[0] for row in running["curve"]][:kept] == list(range(1, kept + 1))
    server.http.delete("/train/")
    wait_until_idle(server)
