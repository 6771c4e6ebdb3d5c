"""A server that is killed in the middle of its work, and started again on the same studies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from app.answers import form, refusal, wait_for_job
from app.serve_with_slow_edits import SLOW_SEED

from robustness.load import digest

SERVE = Path(__file__).resolve().parents[1] / "app" / "serve_with_slow_edits.py"
SLOW = form(seed=SLOW_SEED, slices="1", steps=2, echo_time_ms=1.4)


@contextmanager
def served(studies: Path, models: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    command = [sys.executable, str(SERVE), str(studies), "--port", "0"]
    environment = {**os.environ, "CFMRI_MODELS": str(models)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        url = next(line.split()[2] for line in process.stdout if line.startswith("Serving on "))
        try:
            with httpx.Client(base_url=url, timeout=60) as http:
                yield http, process
        finally:
            process.terminate()


def left_behind(http: httpx.Client, image: bytes) -> tuple[str, str, list[str]]:
    """Leave a finished job with the checksum of its result, and two more of which one runs."""
    done = http.post("/jobs/tissue_segmenter", files={"file": ("Doe.nii.gz", image)}).json()["id"]
    wait_for_job(http, done, "done")
    unfinished = [
        http.post("/jobs/counterfactual", files={"file": ("Doe.nii.gz", image)}, data=SLOW).json()["id"] for _ in "ab"
    ]
    wait_for_job(http, unfinished[0], "running")
    return done, digest(http.get(f"/jobs/{done}/result")), unfinished


def require_taken_up(http: httpx.Client, jobs: Path, done: str, result: str, unfinished: list[str]) -> None:
    assert digest(http.get(f"/jobs/{done}/result")) == result
    for job in unfinished:
        status = http.get(f"/jobs/{job}").json()
        assert status["state"] == "failed"
        assert "server was stopped" in status["error"]["message"]
        refusal(http.get(f"/jobs/{job}/result"), 503)
    assert not list(jobs.rglob("input*"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_finished_jobs_outlive_the_server_and_others_are_said_to_have_failed(
    how, soak, server, models, tmp_path, record_result
):
    if not soak:
        pytest.skip(
            "Starts four servers; runs with --soak. The queue by itself is restarted in tests/app/test_jobs.py."
        )
    image = (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()
    own = tmp_path / "studies"
    own.mkdir()
    (own / "sub-0001.nii.gz").write_bytes(image)
    with served(own, models) as (http, process):
        left = left_behind(http, image)
        process.send_signal(how)
        process.wait(30)
    with served(own, models) as (http, _):
        require_taken_up(http, own / ".monailabel" / "jobs", *left)
    record_result(f"restart-{how.name.lower()}", {"finished_kept": 1, "unfinished_failed": len(left[2])})
