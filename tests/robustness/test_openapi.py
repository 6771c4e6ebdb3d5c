"""Schemathesis makes requests from the server's own OpenAPI description, valid and not: none may be a server error.

Minutes, so only with ``--soak``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SEED, EXAMPLES = 9, 40
#: Starting whole trainings and batches is what `test_hostile_requests` does, which also stops them again.
LEFT_OUT = "^/(train|batch)"


@pytest.mark.timeout(7000)
def test_requests_made_from_the_description_are_never_server_errors(server, soak, record_result, tmp_path):
    if not soak:
        pytest.skip("minutes of generated requests: --soak")
    report = tmp_path / "report.json"
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json", "--seed", SEED,
        "--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES,
        "--exclude-path-regex", LEFT_OUT, "--continue-on-failure", "--request-timeout", 60,
        "--report", "json", "--report-json-path", report,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=tmp_path)
    found = json.loads(report.read_text())
    record_result("openapi", {
        "seed": SEED, "examples": EXAMPLES, "operations": found["operations"]["tested"],
        "requests": found["test_cases"]["generated"], "server_errors": found["test_cases"]["unique_failures"],
    })  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert server.output.read_text(errors="replace").count("Traceback") == 0
    assert server.http.get("/healthz").is_success
