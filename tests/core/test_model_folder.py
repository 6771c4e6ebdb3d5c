import hashlib
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.model_folder import (
    KINDS,
    checked_config,
    copied_models,
    load_weights,
    locate_model,
    read_model,
    write_model,
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "segmenter"
    write_model(path, "segmenter", network(), {"channels": [4]}, "# A card")
    return path


def description(folder):
    return json.loads((folder / "model.json").read_text())


def rewrite(folder, **changes):
    (folder / "model.json").write_text(json.dumps({**description(folder), **changes}))


def test_folder_holds_weights_description_and_card(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == "# A card"
    assert description(folder)["config"] == {"channels": [4]}


def test_matrices_are_stored_in_half_precision_and_vectors_are_not(folder):
    stored = load_file(folder / "model.safetensors")
    assert stored["0.weight"].dtype == torch.float16
    assert stored["0.bias"].dtype == stored["1.running_var"].dtype == torch.float32
    assert stored["1.num_batches_tracked"].dtype == torch.int64


def test_state_comes_back_as_float32(folder):
    config, state, sha256 = read_model(folder, "segmenter")
    assert config == {"channels": [4]}
    assert sha256 == description(folder)["sha256"]
    assert state["0.weight"].dtype == torch.float32
    assert torch.allclose(state["0.weight"], network().state_dict()["0.weight"], atol=1e-3)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_full_precision_round_trip_is_exact(tmp_path, memory_format):
    original = network().to(memory_format=memory_format)
    write_model(tmp_path / "m", "editor", original, {}, "", half=False)
    restored = network()
    nn.init.zeros_(restored[0].weight)
    load_weights(restored, read_model(tmp_path / "m", "editor")[1], tmp_path)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name])


def test_writing_again_replaces_the_folder(folder):
    write_model(folder, "segmenter", network(), {"channels": [8]}, "# Newer")
    assert read_model(folder, "segmenter")[0] == {"channels": [8]}
    assert [path.name for path in folder.parent.iterdir()] == ["segmenter"]


def test_other_kind_is_refused(folder):
    with pytest.raises(CheckpointError, match="kind 'segmenter', not 'editor'"):
        read_model(folder, "editor")


def test_damaged_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        read_model(folder, "segmenter")
    assert "again" in caught.value.hint


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_absent_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        read_model(folder, "segmenter")


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "not json", '{"format_version": 1, "kind": "segmenter"}'])
def test_description_that_is_none_is_refused(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match="not the description"):
        read_model(folder, "segmenter")


def test_newer_format_is_refused(folder):
    rewrite(folder, format_version=2)
    with pytest.raises(CheckpointError, match="format version 2"):
        read_model(folder, "segmenter")


def test_pickle_in_place_of_weights_is_refused_and_never_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    payload = pickle.dumps(Trap())
    (folder / "model.safetensors").write_bytes(payload)
    rewrite(folder, sha256=hashlib.sha256(payload).hexdigest())
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_model(folder, "segmenter")
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("0.bias"), "1 missing (first: 0.bias)"),
        (lambda state: state.update(extra=torch.zeros(1)), "1 left over (first: extra)"),
        (lambda state: state.update({"0.bias": torch.zeros(5)}), "1 of another shape (first: 0.bias)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, problem):
    state = network().state_dict()
    change(state)
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(), state, tmp_path)
    assert problem in caught.value.message


@pytest.mark.parametrize("error", [KeyError, IndexError, LookupError, AttributeError, TypeError, RecursionError])
def test_impossible_config_names_the_description(tmp_path, error):
    with pytest.raises(CheckpointError, match=r"model\.json does not describe"), checked_config(tmp_path):
        raise error("channels")


@pytest.mark.parametrize("config", [None, [1], "text", 3, {"channels": math.nan}, {"channels": math.inf}])
def test_a_config_that_is_none_is_refused(folder, config):
    rewrite(folder, config=config)
    with pytest.raises(CheckpointError, match="not the description"):
        read_model(folder, "segmenter")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = network().state_dict()
    state["1.weight"] = torch.full_like(state["1.weight"], value)
    with pytest.raises(CheckpointError, match=r"not finite|NaN or infinite values \(first: 1\.weight\)"):
        load_weights(network(), state, tmp_path)


class TestLocateModel:
    def test_root_may_be_the_model_or_hold_it(self, folder):
        assert locate_model("segmenter", folder) == folder
        assert locate_model("segmenter", folder.parent) == folder

    def test_environment_variable_is_used(self, folder, monkeypatch):
        monkeypatch.setenv("CFMRI_MODELS", str(folder.parent))
        assert locate_model("segmenter") == folder

    @pytest.mark.parametrize("kind", KINDS)
    def test_absent_model_tells_how_to_get_one(self, tmp_path, kind):
        with pytest.raises(CheckpointError, match=f"no model of kind '{kind}'") as caught:
            locate_model(kind, tmp_path)
        assert f"cfmri train {kind.replace('_', '-')}" in caught.value.hint

    def test_model_of_another_kind_is_not_taken(self, folder):
        with pytest.raises(CheckpointError, match="no model of kind 'editor'"):
            locate_model("editor", folder)


def test_half_written_model_leaves_the_earlier_one(folder):
    with pytest.raises(TypeError):
        write_model(folder, "segmenter", network(), {"not": object()}, "")
    assert read_model(folder, "segmenter")[0] == {"channels": [4]}


def test_models_are_copied_by_kind_and_are_there_only_once_all_is_well(folder, tmp_path):
    output = tmp_path / "copy"
    with pytest.raises(KeyError), copied_models(folder, output):
        raise KeyError
    assert not output.exists()
    with copied_models(folder, output) as partial:
        (partial / "segmenter" / "more.json").write_text("{}")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["segmenter"]
    assert sorted(path.name for path in (output / "segmenter").iterdir())[-1] == "more.json"
    assert not (folder / "more.json").exists()
    with pytest.raises(RequestError, match="exists already"), copied_models(folder, output):
        pass
    with pytest.raises(RequestError, match="inside"), copied_models(folder, folder / "new"):
        pass
