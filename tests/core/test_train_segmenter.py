"""Training of the segmenter, a few steps on simulated studies."""

import json
from dataclasses import replace

import pytest
import torch

from cfmri_core.errors import RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.method import METHODS
from cfmri_core.pipeline.segmentation import segment_volume, volumes_ml
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training.counterfactuals import CounterfactualPlan
from cfmri_core.training.segmenter import train_segmenter

QUICK = {"iterations": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    simulate_dataset(root, 2, 60, StudyPlan(slab_mm=6))
    return root


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.setitem(METHODS, "inversion", replace(METHODS["inversion"], steps=1))
    editor = Editor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values())))
    return CounterfactualPlan(editor=editor, method="inversion", per_volume=1)


@pytest.mark.parametrize("augmentation", ["classical", "counterfactual+classical"])
def test_the_segmenter_labels_on_the_scans_own_grid(data, tmp_path, plan, augmentation):
    folder = train_segmenter(data, tmp_path, augmentation=augmentation, counterfactuals=plan, **QUICK)
    volume = read_scan(data / "sub-0001" / "dicom").volume
    labels = segment_volume(volume, Segmenter.load(folder))
    assert labels.has_same_grid(volume)
    assert labels.voxels.max() <= 2
    assert set(volumes_ml(labels)) == {"fat", "fibroglandular tissue"}
    assert "--augmentation " + augmentation in (folder / "README.md").read_text()


def test_training_is_repeatable_and_goes_on_where_it_stopped(data, tmp_path):
    run = {"augmentation": "contrast-randomisation", **QUICK}

    def stop(step, total, message):
        if "loss" in message and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_segmenter(data, tmp_path / "a", progress=stop, **run)
    folders = [train_segmenter(data, tmp_path / name, resume=True, **run) for name in "ab"]
    assert len({Segmenter.load(folder).sha256 for folder in folders}) == 1


def test_a_trained_segmenter_can_be_trained_on(data, tmp_path):
    first = train_segmenter(data, tmp_path / "one", **QUICK)
    second = train_segmenter(data, tmp_path / "two", start_from=first, **QUICK)
    assert json.loads((second / "model.json").read_text())["sha256"] != Segmenter.load(first).sha256
    assert torch.isfinite(Segmenter.load(second).logits(torch.rand(1, 1, 96, 96))).all()


def test_what_cannot_be_trained_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(RequestError, match="editor"):
        train_segmenter(tmp_path / "absent", tmp_path, augmentation="counterfactual", **QUICK)
    with pytest.raises(RequestError, match="magic"):
        train_segmenter(tmp_path / "absent", tmp_path, augmentation="magic", **QUICK)
