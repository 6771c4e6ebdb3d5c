"""The whole demo, small, against the real server with untrained models: every step of the protocol, not the quality."""

import re

import pytest
import torch

from cfmri_core.demo import run, studies
from cfmri_core.errors import CheckpointError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.protocols import PRESETS

pytest.importorskip("monailabel", reason="needs MONAI Label: make .venv/.runtime")


@pytest.fixture
def untrained_models(tmp_path, monkeypatch):
    torch.manual_seed(0)
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Editor.create("tiny", spec).save(tmp_path / "models" / "editor", "Untrained, for tests.")
    IapPredictor.create("tiny", spec).save(tmp_path / "models" / "iap_predictor", "Untrained, for tests.")
    Segmenter.create("tiny").save(tmp_path / "models" / "segmenter", "Untrained, for tests.")
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path / "models"))


def test_without_models_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("CFMRI_MODELS", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match="no model"):
        run.run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_demo_ends_in_one_report_with_pictures(tmp_path, monkeypatch, untrained_models):
    monkeypatch.setattr(studies, "SLAB_MM", 8.0)
    monkeypatch.setattr(studies, "TRAINING_PATIENTS", 2)
    monkeypatch.setitem(run.TRAINING, "epochs", 1)
    monkeypatch.setattr(run, "EDIT_OPTIONS", {"seed": 0, "steps": 2})
    said = []
    report = run.run_demo(tmp_path / "out", progress=lambda step, total, message: said.append(message))
    text = report.read_text()
    assert text.count("data:image/png;base64,") == 3 * len(studies.TEST_PATIENTS)
    for words in ("SYNTHETIC", "Predicted from the counterfactual", "Before retraining", "After retraining", "sha256"):
        assert words in text
    assert not re.search(r"(src|href)=[\"'](?!data:)", text)
    assert any(message.startswith("training:") for message in said)
    assert {path.name for path in (tmp_path / "out" / "results" / "test-01").iterdir()} >= {
        "source.nii.gz", "counterfactual.nii.gz", "source_labels_before.nii.gz", "source_labels_after.nii.gz",
    }  # fmt: skip
