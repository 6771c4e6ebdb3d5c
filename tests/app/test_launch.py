"""Starting the server: refusals, and what one session left in its logs and folders."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.conftest import APP

LAUNCH = APP / "cfmri_server" / "launch.py"
SENTINEL = "Doe-John-19700101"


def launch(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(LAUNCH), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "token and TLS"),
        (["--host", "192.0.2.7"], "token and TLS"),
        (["--port", "99999"], "Port 99999"),
    ],
)
def test_it_does_not_start_where_it_must_not(studies, arguments, says):
    done = launch(studies, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_it_needs_a_folder(tmp_path):
    done = launch(tmp_path / "absent")
    assert done.returncode == 2
    assert "not a folder" in done.stderr


def test_two_servers_do_not_share_studies(server):
    done = launch(server.studies, "--port", "0")
    assert done.returncode == 2
    assert "already serves" in done.stderr


def test_no_patient_data_reach_the_log(server):
    content = (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()
    name = f"{SENTINEL}.nii.gz"
    server.http.put(f"/datastore/image?image={SENTINEL}", files={"file": (name, content)})
    server.http.post(f"/infer/iap_predictor?image={SENTINEL}")
    server.http.post("/infer/iap_predictor", files={"file": (name, content)})
    server.http.post("/infer/iap_predictor", files={"file": (name, b"broken")})
    server.http.post(f"/infer/iap_predictor?image={SENTINEL}-absent")
    server.http.put(f"/datastore/label?image={SENTINEL}&tag=draft", files={"label": (name, content)})
    server.http.put("/session/", files={"files": (name, content)})
    server.http.delete(f"/datastore/image?id={SENTINEL}")
    written = server.output.read_text() + (server.studies / ".monailabel/logs/server.log").read_text()
    assert "iap_predictor" in written
    assert SENTINEL not in written


def test_nothing_is_written_into_the_app(server):
    assert not [name for name in ("logs", "model", "bin") if (APP / name).exists()]
    assert server.http.get("/healthz").json()["api_version"] == 1


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("http://127.0.0.1:1/dicom-web", 8, "Nothing answers"),
        ("http://pacs.hospital/dicom-web", 2, "unencrypted"),
        ("http://me:secret@127.0.0.1/dicom-web", 2, "password"),
    ],
)
def test_an_archive_must_be_there_and_reached_safely(tmp_path, url, code, says):
    done = launch(url, "--state", tmp_path / "state", "--port", "0")
    assert done.returncode == code
    assert says in done.stderr
    assert "secret" not in done.stderr


def test_state_is_for_archives(studies, tmp_path):
    done = launch(studies, "--state", tmp_path / "state")
    assert done.returncode == 2
    assert "for archives" in done.stderr
