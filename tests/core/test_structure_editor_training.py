"""Training of the structure editor from studies to model folder, and going on after a stop."""

import dataclasses
import json

import glands
import pytest
import torch

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import Cancelled, RequestError
from cfmri_core.models import structure_editor
from cfmri_core.models.structure_editor import StructureEditor
from cfmri_core.progress import TrainingStep
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training.structure_editor import train_structure_editor


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("structure")
    simulate_dataset(root, 3, 340900, StudyPlan(slab_mm=8))
    return list_studies(root)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(structure_editor.PRESETS, "tiny", dataclasses.replace(glands.QUICK, image_size=48))


def train(studies, output, **options):
    return train_structure_editor(studies, output, iterations=4, batch_size=2, **options)


def test_a_training_that_was_stopped_ends_where_it_would_have_ended(studies, tmp_path):
    steps = []

    def stop_late(step, total, message):
        if isinstance(message, TrainingStep):
            steps.append((step, total, str(message).split(":")[0]))
        if str(message).startswith("reg-cft"):
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        train(studies, tmp_path / "stopped", progress=stop_late)
    names = list(dict.fromkeys(name for _, _, name in steps))
    assert names == ["segmenter", "reader", "base", "seg-cft", "regressor", "reg-cft"]
    assert [step for step, _, _ in steps] == sorted(step for step, _, _ in steps)
    folder = train(studies, tmp_path / "stopped", resume=True)
    whole = train(studies, tmp_path / "whole")
    described = [json.loads((one / "model.json").read_text()) for one in (folder, whole)]
    assert described[0]["sha256"] == described[1]["sha256"]
    editor = StructureEditor.load(folder)
    tuned, base = (editor.denoiser(name).state_dict() for name in ("seg-cft", "base"))
    assert any(not torch.equal(tuned[name], base[name]) for name in base)
    assert "seg-cft" in (folder / "README.md").read_text()
    going_on = train(studies[:2], tmp_path / "more", start_from=folder)
    assert StructureEditor.load(going_on).segmenter.config == editor.segmenter.config


def test_one_patient_is_not_enough(studies, tmp_path):
    with pytest.raises(RequestError, match="fewer than 2"):
        train(studies[:1], tmp_path)
