"""Many clients at once: right answers or a clear refusal, a bounded queue, flat memory, a server that stays awake."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from app.answers import form, wait_for_job

from robustness.load import digest

LOAD = Path(__file__).with_name("load.py")
SEED = 6
LIMIT_MS = 200.0
#: What clients ask for, and how often: all models, two images, edits with their own settings.
REQUESTS = [
    (3, "iap_predictor?image=sub-0001", {}),
    (3, "iap_predictor?image=sub-0002", {}),
    (3, "tissue_segmenter?image=sub-0001", {}),
    (3, "tissue_segmenter?image=sub-0002", {}),
    (1, "counterfactual?image=sub-0001", {"slices": "1", "steps": 1, "echo_time_ms": 1.4}),
    (1, "counterfactual?image=sub-0002", {"slices": "1:3", "steps": 2, "seed": 7, "flip_angle_deg": 20.0}),
]


class Results(dict[str, Any]):
    """What the tests of this file found, for one result file."""


@pytest.fixture(scope="module")
def results(record_result) -> Iterator[Results]:
    found = Results(seed=SEED)
    yield found
    record_result("concurrency", found)


@pytest.fixture(scope="module")
def cases(server) -> list[dict[str, Any]]:
    """Each request with the checksum of its answer when nobody else asks; asked twice, it is the same."""
    found = []
    for weight, path, params in REQUESTS:
        answers = {digest(server.http.post(f"/infer/{path}", data=form(**params))) for _ in range(2)}
        assert len(answers) == 1, path
        found.append({"weight": weight, "path": path, "form": form(**params), "digest": answers.pop()})
    return found


@pytest.fixture(scope="module")
def process(server) -> psutil.Process:
    """The server's process: the one that listens on its port."""
    port = int(server.url.rpartition(":")[2])
    listening = [c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"]
    return psutil.Process(listening[0])


def loaded(server, cases, **asked) -> dict[str, Any]:
    command = [sys.executable, str(LOAD), server.url]
    asked = json.dumps({"cases": cases, "seed": SEED, **asked})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def probed(server) -> Iterator[dict[str, Any]]:
    """Ask `/healthz` and `/info/` meanwhile; the answer is complete when the block ends."""
    command = [sys.executable, str(LOAD), server.url, "--probe"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        answer: dict[str, Any] = {}
        yield answer
        answer.update(json.loads(process.communicate()[0]))


def folders(server) -> list[Path]:
    return list((server.studies / ".monailabel" / "jobs").iterdir())


def require_awake(probe: dict[str, Any], soak: bool) -> None:
    """At full size the 99th percentile counts; a slice is too short for one and shares its machine with other tests."""
    assert probe["failed"] == 0
    for path in ("/healthz", "/info/"):
        assert probe[path]["p99_ms" if soak else "p50_ms"] <= LIMIT_MS, probe


def test_many_clients_get_the_right_answers_or_are_told_to_wait(server, cases, soak, results):
    clients, requests = (64, 20) if soak else (8, 3)
    with probed(server) as probe:
        met = loaded(server, cases, route="infer", clients=clients, requests=requests)
    results["infer"] = {"clients": clients, "requests_per_client": requests, **met, "probe": probe}
    assert met["wrong"] == []
    assert set(met["statuses"]) <= {"200", "429 with Retry-After", "503 with Retry-After"}
    assert met["statuses"]["200"] == clients * requests
    assert met["abandoned"] or not soak
    require_awake(probe, soak)


def test_jobs_leave_the_server_awake(server, cases, soak, results):
    with probed(server) as probe:
        met = loaded(server, cases, route="jobs", clients=8, requests=20 if soak else 1)
    results["jobs"] = {"clients": 8, **met, "probe": probe}
    assert met["wrong"] == []
    require_awake(probe, soak)


def test_the_queue_is_bounded_and_what_was_abandoned_leaves_nothing(server, soak, results):
    """No client polls here: more jobs than there is room for, sent at once and then cancelled."""
    slow = form(slices="1:4", steps=500, echo_time_ms=1.4)
    answers = [server.http.post("/jobs/counterfactual?image=sub-0001", data=slow) for _ in range(20)]
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(accepted) <= 16
    assert {(answer.status_code, "retry-after" in answer.headers) for answer in refused} == {(503, True)}
    for job in accepted:
        server.http.delete(f"/jobs/{job}")
    for job in accepted:
        assert wait_for_job(server.http, job, "cancelled", "done")
        server.http.delete(f"/jobs/{job}")
    deadline = time.monotonic() + 30
    while folders(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    results["queue"] = {"sent": len(answers), "accepted": len(accepted), "folders_left": len(folders(server))}
    assert folders(server) == []


def test_memory_is_flat(server, cases, process, soak, results):
    """Resident memory of the server before and after; short of full size it shows only that it can be measured."""
    clients, requests = (8, 125) if soak else (4, 2)
    loaded(server, cases, route="infer", clients=clients, requests=requests // 10 or 1)  # warm-up
    before = process.memory_info().rss
    met = loaded(server, cases, route="infer", clients=clients, requests=requests)
    growth = process.memory_info().rss / before - 1
    results["memory"] = {"requests": clients * requests, **met, "rss_mb": before // 2**20, "growth": round(growth, 4)}
    assert met["wrong"] == []
    assert growth <= (0.05 if soak else 0.5)
