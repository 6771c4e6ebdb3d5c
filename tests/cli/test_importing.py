"""`import-checkpoint`."""

import os

import pytest
import torch

from cfmri_core.models.model_folder import read_model
from cfmri_core.models.segmenter import Segmenter

SETTINGS = {
    "model_hparams": {"spatial_size": (224, 224)},
    "unet_hprams": {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (32, 64, 128, 256, 512, 512),
        "strides": (2, 2, 2, 2, 2), "num_res_units": 2, "dropout": 0, "norm": "BATCH",
    },
}  # fmt: skip


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def saved(path, **more):
    state = Segmenter.create("paper").network.state_dict()
    content = {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "hyper_parameters": SETTINGS}
    torch.save({**content, **more}, path)
    return path


def test_a_checkpoint_becomes_a_model_folder_that_segments(cfmri, series, tmp_path):
    checkpoint, model = saved(tmp_path / "last.ckpt"), tmp_path / "models" / "segmenter"
    outcome = cfmri("import-checkpoint", checkpoint, "--kind", "segmenter", "--output", model, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json() == {"model": str(model), "kind": "segmenter"}
    assert len(read_model(model, "segmenter")[2]) == 64
    outcome = cfmri("segment", series, tmp_path / "labels.nii.gz", "--model", model, "--device", "cpu")
    assert outcome.code == 0, outcome.err


def test_code_in_a_checkpoint_runs_only_when_it_is_trusted(cfmri, tmp_path):
    checkpoint, arguments = saved(tmp_path / "last.ckpt", callbacks=Runs(tmp_path / "ran")), ("--kind", "segmenter")
    outcome = cfmri("import-checkpoint", checkpoint, *arguments, "--output", tmp_path / "model")
    assert outcome.code == 5
    assert outcome.err.count("\n") == 1
    assert "system" in outcome.err
    assert "--trust-pickle" in outcome.err
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model").exists()
    outcome = cfmri("import-checkpoint", checkpoint, *arguments, "--output", tmp_path / "model", "--trust-pickle")
    assert outcome.code == 0, outcome.err
    assert "with your rights" in outcome.err
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (b"not a checkpoint", ("--kind", "segmenter"), 5, "not a whole PyTorch checkpoint"),
        (b"", ("--kind", "editor"), 2, "--iap-checkpoint PREDICTOR.ckpt"),
        (b"", ("--kind", "lesion"), 2, "kind 'lesion' is not known"),
        (None, ("--kind", "iap-predictor"), 5, "There is no file"),
    ],
)
def test_what_cannot_be_imported_ends_in_one_line(cfmri, tmp_path, content, arguments, code, message):
    if content is not None:
        (tmp_path / "last.ckpt").write_bytes(content)
    outcome = cfmri("import-checkpoint", tmp_path / "last.ckpt", *arguments, "--output", tmp_path / "model")
    assert outcome.code == code
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_left_over_and_missing_are_named(cfmri, tmp_path):
    checkpoint = saved(tmp_path / "last.ckpt", state_dict={"model.surplus": torch.ones(1)})
    outcome = cfmri("import-checkpoint", checkpoint, "--kind", "segmenter", "--output", tmp_path / "model")
    assert outcome.code == 5
    assert "1 left over (model.surplus)" in outcome.err
    assert "missing (model.0.conv" in outcome.err


def test_checkpoint_without_hyper_parameters_is_refused(cfmri, tmp_path):
    checkpoint = saved(tmp_path / "last.ckpt", hyper_parameters={})
    for kind, missing in (("segmenter", "unet_hprams"), ("iap-predictor", "features_dims")):
        outcome = cfmri("import-checkpoint", checkpoint, "--kind", kind, "--output", tmp_path / "model")
        assert outcome.code == 5
        assert missing in outcome.err
