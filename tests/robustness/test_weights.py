"""Files offered as weights run nothing, and what is served is a whole model whenever publishing is killed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cfmri_server.model_store import ModelStore
from torch import nn

from cfmri_core.errors import CfmriError, CheckpointError
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.import_checkpoint import import_checkpoint
from cfmri_core.models.lesion_editor import LesionEditor, PaletteEditor
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.models.model_folder import KINDS, locate_model, read_model, write_model
from cfmri_core.models.scripted_segmenter import load_any_segmenter
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import StructureEditor
from cfmri_core.pipeline.support import read_training_support
from cfmri_core.training.counterfactuals import read_or_make
from cfmri_core.training.loop import Schedule, train
from robustness.malicious_weights import descriptions, lies, pickles

LOADERS = {
    model.kind: model
    for model in (
        Editor,
        IapPredictor,
        Segmenter,
        DirectEditor,
        LesionEditor,
        PaletteEditor,
        LesionSegmenter,
        StructureEditor,
    )
}
SECONDS = 20


@pytest.fixture
def canary(tmp_path):
    """A file that nothing may write."""
    return tmp_path / "canary"


def model_folder(folder: Path, kind: str, weights: bytes) -> Path:
    """A shipped model whose weights are replaced, with the checksum of what is there."""
    shutil.copytree(locate_model(kind), folder)
    (folder / "model.safetensors").write_bytes(weights)
    description = json.loads((folder / "model.json").read_text())
    description["sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "model.json").write_text(json.dumps(description))
    return folder


def as_model_folders(path: Path, monkeypatch) -> None:
    root = path.parent / "models"
    folders = {kind: model_folder(root / kind, kind, path.read_bytes()) for kind in KINDS}
    with monkeypatch.context() as environment:
        environment.setenv("CFMRI_MODELS", str(root))
        for kind, folder in folders.items():
            with pytest.raises(CheckpointError):
                LOADERS[kind].load(locate_model(kind))
            with pytest.raises(CfmriError):
                load_any_segmenter(folder)


def as_checkpoint_to_import(path: Path, monkeypatch) -> None:
    for kind in ("segmenter", "iap-predictor"):
        with pytest.raises(CheckpointError):
            import_checkpoint(path, kind, path.parent / "imported")
    with pytest.raises(CheckpointError):
        import_checkpoint(path, "editor", path.parent / "imported", iap_checkpoint=path)
    renamed = path.with_suffix(".json")
    shutil.copyfile(path, renamed)
    with pytest.raises(CfmriError):
        import_checkpoint(path, "editor", path.parent / "imported", iap_checkpoint=renamed)
    assert not (path.parent / "imported").exists()


def as_training_checkpoint(path: Path, monkeypatch) -> None:
    shutil.copyfile(path, path.with_name("checkpoint.pt"))
    schedule = Schedule(iterations=1, learning_rate=0.1)
    with pytest.raises(CheckpointError):
        train(
            nn.Linear(1, 1), lambda network, _: network.weight.sum(), lambda _: 0.0, path.parent, schedule, resume=True
        )


def as_cached_counterfactual(path: Path, monkeypatch) -> None:
    cached = path.with_suffix(".npy")
    shutil.copyfile(path, cached)
    assert read_or_make(cached, torch.Size([2]), lambda: torch.ones(2)).tolist() == [1, 1]


def as_segmenter_to_stress(path: Path, monkeypatch) -> None:
    for suffix in (".pt", ".ts", ".safetensors"):
        renamed = path.with_suffix(suffix)
        shutil.copyfile(path, renamed)
        with pytest.raises(CheckpointError):
            load_any_segmenter(renamed)


def as_statistics(path: Path, monkeypatch) -> None:
    folder = path.parent / "shipped"
    shutil.copytree(locate_model("editor"), folder)
    shutil.copyfile(path, folder / "support.json")
    with pytest.raises(CheckpointError):
        read_training_support(folder, Editor.load(folder).sha256)


DOORS = (as_model_folders, as_checkpoint_to_import, as_training_checkpoint, as_cached_counterfactual,
         as_segmenter_to_stress, as_statistics)  # fmt: skip


def test_the_files_do_run_where_nobody_cares(tmp_path, canary):
    offered = pickles(canary)
    careless = {
        "pickle, protocol 2": lambda path: pickle.loads(path.read_bytes()),
        "pickle, opcodes by hand": lambda path: pickle.loads(path.read_bytes()),
        "torch.save, zip": lambda path: torch.load(path, weights_only=False),
        "torch.save, legacy": lambda path: torch.load(path, weights_only=False),
        "torch.jit": torch.jit.load,
        "npz with objects": lambda path: np.load(path, allow_pickle=True)["a"],
    }
    for name, load in careless.items():
        path = tmp_path / "offered"
        path.write_bytes(offered[name])
        load(path)
        assert canary.exists(), name
        canary.unlink()


def test_nothing_that_is_offered_as_weights_runs(tmp_path, canary, monkeypatch, record_result):
    offered = {**pickles(canary), **lies()}
    assert len(offered) == 25
    offers = [(door, name) for door in DOORS for name in offered]
    offers.remove((as_segmenter_to_stress, "torch.jit"))  # a program there: the command's help says that it is run
    for number, (door, name) in enumerate(offers):
        path = tmp_path / f"{number}" / "offered.ckpt"
        path.parent.mkdir()
        path.write_bytes(offered[name])
        started = time.monotonic()
        door(path, monkeypatch)
        assert not canary.exists(), (door.__name__, name)
        assert time.monotonic() - started < SECONDS, (door.__name__, name)
    counted = {"files": sorted(offered), "doors": [door.__name__ for door in DOORS], "offers": len(offers)}
    record_result("weights", {**counted, "executions": 0, "untyped_errors": 0})


def test_no_description_of_a_model_runs_or_takes_the_memory(tmp_path, canary):
    weights = (locate_model("segmenter") / "model.safetensors").read_bytes()
    sha256 = hashlib.sha256(weights).hexdigest().encode()
    for number, (name, content) in enumerate(descriptions(canary).items()):
        folder = model_folder(tmp_path / f"{number}", "segmenter", weights)
        (folder / "model.json").write_bytes(content.replace(b"0" * 64, sha256))
        with pytest.raises(CheckpointError):
            load_any_segmenter(folder)
        with pytest.raises(CheckpointError):
            Segmenter.load(folder)
        assert not canary.exists(), name


@pytest.mark.parametrize("outside", ["/dev/zero", "/etc/passwd", "a folder", "a pipe", "nowhere"])
def test_a_link_in_a_model_folder_leads_nowhere(tmp_path, outside):
    folder = model_folder(tmp_path / "model", "segmenter", b"")
    for name in ("model.safetensors", "model.json"):
        target = Path(outside) if outside.startswith("/") else tmp_path / name / "target"
        target.parent.mkdir(exist_ok=True)
        if outside == "a folder":
            target.mkdir()
        if outside == "a pipe":
            os.mkfifo(target)
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        with pytest.raises(CheckpointError):
            Segmenter.load(folder)


def test_weights_with_one_bit_changed_are_refused(tmp_path):
    shutil.copytree(locate_model("segmenter"), tmp_path / "model")
    weights = bytearray((tmp_path / "model" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model" / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="SHA-256"):
        Segmenter.load(tmp_path / "model")
    with pytest.raises(CheckpointError):
        ModelStore(tmp_path / "models").publish("segmenter", tmp_path / "model")


def test_publishing_killed_at_any_time_leaves_the_old_or_the_new_model(tmp_path, soak, record_result):
    kills, seed = 300 if soak else 25, 4
    store, draw = ModelStore(tmp_path / "models"), random.Random(seed)
    trained = []
    for number in range(4):
        torch.manual_seed(number)
        trained.append(tmp_path / f"trained{number}")
        write_model(trained[-1], "segmenter", nn.Linear(256, 256), {}, "")
    store.publish("segmenter", trained[0])
    versions, reads = set(), 0
    for _ in range(kills):
        child = os.fork()
        if not child:
            publish_for_ever(store, trained)
        deadline = time.monotonic() + draw.uniform(0.005, 0.08)
        while time.monotonic() < deadline:
            read_model(store.folder("segmenter"), "segmenter")  # raises unless whole
            reads += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        read_model(store.folder("segmenter"), "segmenter")
        versions.add(store.publications("segmenter")[0])
    assert len(versions) > kills / 5
    store.publish("segmenter", trained[1])
    assert not list(store.root.glob(".part-*"))
    record_result("publish_killed", {"kills": kills, "seed": seed, "reads": reads, "half_models": 0})


def publish_for_ever(store: ModelStore, trained: list[Path]) -> None:
    try:
        while True:
            for folder in trained:
                store.publish("segmenter", folder)
    finally:
        os._exit(1)
