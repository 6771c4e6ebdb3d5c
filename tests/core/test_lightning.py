import json
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from cfmri_core.errors import CheckpointError
from cfmri_core.io.lightning import plain, read_lightning


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def saved(path, **more):
    """Write what Lightning writes: state, hyper-parameters with NumPy values, optimiser, callbacks."""
    layer = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict({f"model.{name}": value for name, value in layer.state_dict().items()}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": MetaTensor(torch.tensor(0.5))}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "features_scale": {"Flip Angle": np.float64(12.0)},
            "features_labels": {"Field Strength (Tesla)": {0: np.float64(1.5), 1: np.float64(3.0)}},
            "catg_features_weights": {"Field Strength (Tesla)": np.array([0.5, 1.5])},
            "channels": (64, 64),
        },
        **more,
    }
    torch.save(content, path)
    return path


def test_state_and_hyper_parameters_are_read(tmp_path):
    read = read_lightning(saved(tmp_path / "last.ckpt"))
    assert {name: tuple(tensor.shape) for name, tensor in read.state.items()} == {
        "model.weight": (3, 2),
        "model.bias": (3,),
    }
    assert read.hyper_parameters["features_labels"] == {"Field Strength (Tesla)": {"0": 1.5, "1": 3.0}}
    assert read.hyper_parameters["catg_features_weights"] == {"Field Strength (Tesla)": [0.5, 1.5]}
    assert len(read.sha256) == 64


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_written_by_any_numpy_are_read(tmp_path, module):
    path = saved(tmp_path / "last.ckpt")
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in content if name.endswith("data.pkl")]
    content[name] = content[name].replace(b"numpy.core.multiarray", module.encode())
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    assert read_lightning(tmp_path / "other.ckpt").hyper_parameters["features_scale"] == {"Flip Angle": 12.0}


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    path = saved(tmp_path / "last.ckpt", hyper_parameters={"x": Runs(tmp_path / "ran")})
    with pytest.raises(CheckpointError, match=r"posix\.system.*--trust-pickle"):
        read_lightning(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickle_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps({"state_dict": Runs(tmp_path / "ran")}, protocol=protocol))
    with pytest.raises(CheckpointError):
        read_lightning(path)
    assert not (tmp_path / "ran").exists()


def test_trusted_pickle_is_read_in_a_process_of_its_own(tmp_path):
    path = saved(tmp_path / "last.ckpt", callbacks={"x": Runs(tmp_path / "ran")})
    read = read_lightning(path, trust_pickle=True)
    assert (tmp_path / "ran").exists()
    restricted = read_lightning(saved(tmp_path / "plain.ckpt"))
    assert read.state.keys() == restricted.state.keys()
    assert read.hyper_parameters == restricted.hyper_parameters


@pytest.mark.parametrize(
    ("content", "trust_pickle"),
    [
        (b"", False),
        (b"not a checkpoint", False),
        (b"not a checkpoint", True),
        (b"PK\x03\x04 cut short", False),
        (pickle.dumps([1, 2]), False),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, trust_pickle):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt"):
        read_lightning(tmp_path / "last.ckpt", trust_pickle=trust_pickle)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_truncated_checkpoint_is_refused(tmp_path, share):
    whole = saved(tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="not a whole PyTorch checkpoint"):
        read_lightning(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "state", [None, {}, [1], {"model.weight": "text"}, {"model.weight": torch.ones(2).to_sparse()}]
)
def test_state_that_is_no_state_is_refused(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"no state_dict|other than a dense tensor as model\.weight"):
        read_lightning(saved(tmp_path / "last.ckpt", state_dict=state))


def test_absent_file_and_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="There is no file"):
        read_lightning(tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="Cannot read"):
        read_lightning(tmp_path)


def test_checkpoint_without_hyper_parameters_has_none(tmp_path):
    assert read_lightning(saved(tmp_path / "last.ckpt", hyper_parameters=None)).hyper_parameters == {}


def test_plain_values_survive_json():
    value = {1: (np.float32(0.5), np.array([1, 2])), "flag": True, "none": None, "object": object(), "n": np.int64(3)}
    expected = {"1": [0.5, [1, 2]], "flag": True, "none": None, "object": None, "n": 3}
    assert plain(value) == json.loads(json.dumps(plain(value))) == expected
    assert plain(value)["flag"] is True
