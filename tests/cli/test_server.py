"""`serve`, `token`, `audit`: what is checked before a server starts, and what guards one."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from cfmri_core.cli import server
from cfmri_core.errors import ResourceError


def test_the_app_of_the_checkout_is_found(monkeypatch):
    monkeypatch.delenv("CFMRI_APP", raising=False)
    assert (server.app_folder() / "cfmri_server" / "launch.py").is_file()


def test_another_app_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_APP", str(tmp_path))
    with pytest.raises(ResourceError, match="No MONAI Label app"):
        server.app_folder()
    (tmp_path / "main.py").touch()
    assert server.app_folder() == tmp_path


def test_a_demo_without_the_app_ends_before_any_work(cfmri, tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_APP", str(tmp_path))
    outcome = cfmri("demo", tmp_path / "out")
    assert outcome.code == ResourceError.exit_code
    assert "No MONAI Label app" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def launched(monkeypatch):
    """What the launcher is called with, instead of being called."""
    calls = []
    launch = types.ModuleType("cfmri_server.launch")
    launch.serve = lambda *call: calls.append(call)
    launch.studies_folder = lambda given, state, where: state if given.startswith("http") else Path(given)
    monkeypatch.setitem(sys.modules, "cfmri_server.launch", launch)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return calls


def test_studies_host_and_port_reach_the_launcher(cfmri, tmp_path, launched):
    outcome = cfmri("serve", tmp_path, "--port", 8123)
    assert outcome.code == 0
    folder, exposure, port = launched[0]
    assert (folder, exposure.host, exposure.tokens, port) == (tmp_path, "127.0.0.1", None, 8123)
    assert "http://127.0.0.1:8123" in outcome.err
    assert cfmri("serve", "http://127.0.0.1:8042/dicom-web", "--state", tmp_path / "state").code == 0
    folder, exposure, port = launched[1]
    assert (folder, exposure.host, port) == (tmp_path / "state", "127.0.0.1", 8000)


def test_tokens_and_names_reach_the_launcher(cfmri, tmp_path, launched):
    file = tmp_path / "tokens"
    assert cfmri("token", "ann", "--role", "annotator", "--tokens", file).code == 0
    options = ["--allowed-host", "a.example", "--allowed-host", "b.example", "--allow-origin", "https://c.example"]
    assert cfmri("serve", tmp_path, "--tokens", file, *options).code == 0
    _, exposure, _ = launched[0]
    assert exposure.tokens == file
    assert exposure.allowed_hosts == ("a.example", "b.example")
    assert exposure.allowed_origins == ("https://c.example",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "needs tokens and TLS"),
        (["--tokens", "absent"], "no token file absent"),
        (["--tls-key", "absent"], "go together"),
        (["--allow-origin", "*"], "not the origin"),
    ],
)
def test_a_server_that_would_be_open_is_refused_in_one_line(cfmri, tmp_path, launched, options, words):
    outcome = cfmri("serve", tmp_path, *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert launched == []


def test_a_token_is_printed_once_and_alone(cfmri, tmp_path):
    outcome = cfmri("token", "ann", "--role", "reader", "--tokens", tmp_path / "tokens")
    token = outcome.out.strip()
    assert token.startswith("cfmri_")
    assert token not in outcome.err
    assert token not in (tmp_path / "tokens").read_text()
    assert cfmri("token", "ann", "--role", "reader", "--tokens", tmp_path / "tokens").code == 2
    assert "reader, annotator, admin" in cfmri("token", "bob", "--role", "x", "--tokens", tmp_path / "tokens").err


def test_an_audit_log_is_verified_and_searched(cfmri, tmp_path):
    log = server._of_the_app("audit").AuditLog(tmp_path)
    for number in range(3):
        log.append({"who": "ann", "action": "infer", "image": f"sub-{number}"})
    verified = cfmri("audit", "verify", log.path, "--json").json()
    assert (verified["lines"], verified["torn"]) == (3, 0)
    assert cfmri("audit", "verify", log.path, "--noted", verified["last_hash"]).code == 0
    assert cfmri("audit", "find", log.path, "sub-1").out.count("ann") == 1
    assert cfmri("audit", "find", log.path, "sub-9").out == ""
    assert cfmri("audit", "verify", log.path, "--noted", "0" * 64).code == 1
    log.path.write_text(log.path.read_text().replace("ann", "bob", 1))
    outcome = cfmri("audit", "verify", log.path)
    assert outcome.code == 1
    assert "line 1 was changed" in outcome.err


def test_a_missing_folder_or_server_is_one_line(cfmri, tmp_path, monkeypatch):
    assert "is not a folder" in cfmri("serve", tmp_path / "none").err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = cfmri("serve", tmp_path)
    assert outcome.code == 7
    assert "make .venv/.runtime" in outcome.err


def test_a_port_that_cannot_be_is_refused(cfmri, tmp_path):
    assert cfmri("serve", tmp_path, "--port", 70000).code == 2
