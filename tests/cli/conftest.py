"""The command line as a user has it: arguments in, exit code and two streams out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cfmri_core.cli import main
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.lesion_editor import LesionEditor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cfmri(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return Outcome(int(leaving.value.code or 0), streams.out, streams.err)

    return run


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small studies with one paired rendering each."""
    root = tmp_path_factory.mktemp("cli") / "studies"
    plan = StudyPlan(paired={"avanto": "siemens-avanto-1.5t"}, slab_mm=12.0)
    simulate_dataset(root, 2, 5200, plan)
    return root


@pytest.fixture(scope="session")
def series(studies: Path) -> Path:
    return studies / "sub-0001" / "dicom"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One untrained tiny model of each kind: enough for everything but the look of results."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    editor = Editor.create("tiny", spec)
    with torch.no_grad():
        for weights in editor.network.parameters():  # the last layers begin at zero: nothing would be edited
            weights.add_(0.02 * torch.randn_like(weights))
    editor.save(root / "editor", "Untrained, for tests.")
    IapPredictor.create("tiny", spec).save(root / "iap_predictor", "Untrained, for tests.")
    Segmenter.create("tiny").save(root / "segmenter", "Untrained, for tests.")
    lesion_editor = LesionEditor.create("tiny", spec)
    with torch.no_grad():
        for weights in lesion_editor.network.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    lesion_editor.save(root / "lesion_editor", "Untrained, for tests.")
    return root


@pytest.fixture
def models(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CFMRI_MODELS", str(model_folder))
    return model_folder


@pytest.fixture(scope="session")
def head_series() -> Path:
    """A real head series (Philips 3 T, 170 slices) that is not part of the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CFMRI_SHARED_DATA", beside)) / "dicom" / "philips_t1_head"
    if not folder.is_dir():
        pytest.skip("no real head series here: set CFMRI_SHARED_DATA to a folder with dicom/philips_t1_head in it")
    return folder
