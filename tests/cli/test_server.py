"""`serve`: what is checked before a server starts."""

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


def test_studies_host_and_port_reach_the_launcher(cfmri, tmp_path, monkeypatch):
    calls = []
    launch = types.ModuleType("cfmri_server.launch")
    launch.serve = lambda *call: calls.append(call)
    launch.studies_folder = lambda given, state, where: state if given.startswith("http") else Path(given)
    monkeypatch.setitem(sys.modules, "cfmri_server.launch", launch)
    monkeypatch.setattr(sys, "path", list(sys.path))
    outcome = cfmri("serve", tmp_path, "--port", 8123)
    assert outcome.code == 0
    assert calls == [(tmp_path, "127.0.0.1", 8123)]
    assert "http://127.0.0.1:8123" in outcome.err
    assert cfmri("serve", "http://127.0.0.1:8042/dicom-web", "--state", tmp_path / "state").code == 0
    assert calls[1] == (tmp_path / "state", "127.0.0.1", 8000)


def test_a_missing_folder_or_server_is_one_line(cfmri, tmp_path, monkeypatch):
    assert "is not a folder" in cfmri("serve", tmp_path / "none").err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    outcome = cfmri("serve", tmp_path)
    assert outcome.code == 7
    assert "make .venv/.runtime" in outcome.err


def test_a_port_that_cannot_be_is_refused(cfmri, tmp_path):
    assert cfmri("serve", tmp_path, "--port", 70000).code == 2
