"""Publishing a model, and reading the one in use."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from cfmri_server.model_store import LoadedModel, ModelStore

from cfmri_core.errors import CheckpointError, RequestError


def model(folder, content: str):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    (folder / "model.json").write_text(
        json.dumps({"kind": "editor", "format_version": 1, "sha256": sha256, "config": {}})
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


def in_use(store):
    return (store.folder("editor") / "model.safetensors").read_text()


def test_old_models_are_dropped(store, shipped, tmp_path):
    for number in range(8):
        store.publish("editor", model(tmp_path / f"new{number}", f"content{number}"))
    assert in_use(store) == "content7"
    assert len([path for path in store.root.iterdir() if path.is_dir()]) == 5
    assert [one.version for one in store.publications("editor")[1]] == [4, 5, 6, 7, 8]


def test_roll_back_goes_one_publication_back_at_a_time(store, shipped, tmp_path):
    for content in ("a", "b"):
        store.publish("editor", model(tmp_path / content, content), {"metric": "Dice"})
    assert store.roll_back("editor") == 1
    assert in_use(store) == "a"
    store.publish("editor", model(tmp_path / "c", "c"))
    store.publish("editor", tmp_path / "a")  # the same weights once more are another publication
    assert [store.roll_back("editor") for _ in range(3)] == [3, 1, 0]
    assert store.folder("editor") == shipped
    with pytest.raises(RequestError, match="none before"):
        store.roll_back("editor")
    assert store.publications("editor")[0] == 0


def test_roll_back_passes_over_a_damaged_model(store, shipped, tmp_path):
    for content in ("a", "b", "c"):
        last = store.publish("editor", model(tmp_path / content, content))
    (store.root / store.publications("editor")[1][1].folder / "model.safetensors").write_text("damaged")
    assert last.follows == 2
    assert store.roll_back("editor") == 1


def test_weights_that_are_not_those_described_are_not_published(store, shipped, tmp_path):
    trained = model(tmp_path / "new", "new")
    (trained / "model.safetensors").write_text("other")
    with pytest.raises(CheckpointError, match="not what"):
        store.publish("editor", trained)
    assert store.folder("editor") == shipped
    assert not [path for path in store.root.iterdir() if path.is_dir()]


def test_a_published_model_that_was_damaged_is_copied_again(store, shipped, tmp_path):
    trained = model(tmp_path / "new", "new")
    store.publish("editor", trained)
    (store.folder("editor") / "model.safetensors").write_text("damaged")
    store.publish("editor", trained)
    assert in_use(store) == "new"


def test_a_model_in_use_that_is_gone_is_told_and_can_be_rolled_back(store, shipped, tmp_path):
    store.publish("editor", model(tmp_path / "new", "new"))
    (store.folder("editor") / "model.json").unlink()
    with pytest.raises(CheckpointError, match="gone"):
        store.folder("editor")
    store.roll_back("editor")
    assert store.folder("editor") == shipped


@pytest.mark.parametrize("content", ["", "{", "[]", '{"in_use": 1}', '{"in_use": 1, "publications": [{"x": 1}]}'])
def test_a_damaged_list_of_models_is_told(store, shipped, content):
    store.root.mkdir()
    (store.root / "editor.json").write_text(content)
    with pytest.raises(CheckpointError, match="in use"):
        store.folder("editor")


def test_publishing_at_the_same_time_loses_nothing(store, shipped, tmp_path):
    trained = [model(tmp_path / f"new{number}", f"content{number}") for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        published = list(pool.map(lambda folder: store.publish("editor", folder), trained))
    assert sorted(one.version for one in published) == [1, 2, 3, 4, 5]
    assert len(store.publications("editor")[1]) == 5


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
