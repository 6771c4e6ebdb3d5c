"""Publishing a model, and reading the one in use."""

from __future__ import annotations

import json

import pytest
from cfmri_server.model_store import LoadedModel, ModelStore

from cfmri_core.errors import CheckpointError


def model(folder, content: str):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    (folder / "model.json").write_text(
        json.dumps({"kind": "editor", "format_version": 1, "sha256": content, "config": {}})
    )
    (folder / "checkpoint.pt").write_text("not for publishing")
    return folder


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path / "shipped"))
    return model(tmp_path / "shipped" / "editor", "shipped")


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "models")


def test_the_shipped_model_serves_until_one_is_published(store, shipped, tmp_path):
    assert store.folder("editor") == shipped
    store.publish("editor", model(tmp_path / "new", "new"))
    assert (store.folder("editor") / "model.safetensors").read_text() == "new"
    assert not (store.folder("editor") / "checkpoint.pt").exists()


def test_an_absent_model_is_said_to_be_absent(store, monkeypatch, tmp_path):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path))
    assert not store.has("editor")
    with pytest.raises(CheckpointError):
        store.folder("editor")


def test_a_half_copied_model_is_never_in_use(store, shipped, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("cfmri_server.model_store.shutil.copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.publish("editor", model(tmp_path / "new", "new"))
    assert store.folder("editor") == shipped


def test_old_models_are_dropped(store, shipped, tmp_path):
    for number in range(6):
        store.publish("editor", model(tmp_path / f"new{number}", f"content{number}"))
    assert (store.folder("editor") / "model.safetensors").read_text() == "content5"
    assert len([path for path in store.root.iterdir() if path.is_dir()]) == 3


def test_a_model_is_read_once_and_again_after_publishing(store, shipped, tmp_path):
    reads = []

    def load(folder, device):
        reads.append(folder)
        return (folder / "model.safetensors").read_text()

    loaded = LoadedModel(store, "editor", load)
    assert [loaded.get("cpu"), loaded.get("cpu")] == ["shipped", "shipped"]
    assert len(reads) == 1
    store.publish("editor", model(tmp_path / "new", "new"))
    assert loaded.get("cpu") == "new"
    assert len(reads) == 2
