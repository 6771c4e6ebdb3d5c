"""A real server process on loopback, started once: simulated studies, untrained models, some edits slow on purpose."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

APP = Path(__file__).resolve().parents[2] / "apps" / "counterfactual_mri"
sys.path[:0] = [str(APP), str(Path(__file__).resolve().parents[1])]  # the second for `phantoms` and `duke_tree`

START_TIMEOUT_S = 280


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: Where it listens.
        studies: The folder it serves.
        models: Folder of the models it uses.
        http: A client of it.
        output: File with everything it printed.
        pid: Its process.
    """

    url: str
    studies: Path
    models: Path
    http: httpx.Client
    output: Path
    pid: int


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small simulated studies, as `cfmri simulate` writes them."""
    from cfmri_core.simulation.study import StudyPlan, simulate_dataset

    root = tmp_path_factory.mktemp("studies")
    simulate_dataset(root, 2, 4100, StudyPlan(slab_mm=16.0))
    return root


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One untrained tiny model of each kind: enough for every question about the protocol."""
    import glands
    import torch

    import cfmri_core
    from cfmri_core.models.conditioning import ConditionSpec
    from cfmri_core.models.editor import Editor
    from cfmri_core.models.iap_predictor import IapPredictor
    from cfmri_core.models.lesion_editor import LesionEditor
    from cfmri_core.models.segmenter import Segmenter
    from cfmri_core.simulation.protocols import PRESETS

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Editor.create("tiny", spec).save(root / "editor", "Untrained, for tests.")
    IapPredictor.create("tiny", spec).save(root / "iap_predictor", "Untrained, for tests.")
    Segmenter.create("tiny").save(root / "segmenter", "Untrained, for tests.")
    finds_breasts = Segmenter.load(Path(cfmri_core.__file__).parent / "weights" / "segmenter")
    glands.quick_editor(finds_breasts).save(root / "structure_editor", "Untrained, for tests.")
    lesion_editor = LesionEditor.create("tiny", spec)
    with torch.no_grad():
        for weights in lesion_editor.network.parameters():  # the last layer begins at zero
            weights.add_(0.02 * torch.randn_like(weights))
    lesion_editor.save(root / "lesion_editor", "Untrained, for tests.")
    return root


@pytest.fixture(scope="session")
def server(studies: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, stopped at the end of the session."""
    with running_server(studies, models, tmp_path_factory.mktemp("server")) as running:
        yield running


@contextlib.contextmanager
def running_server(
    studies: Path,
    models: Path,
    folder: Path,
    options: Sequence[object] = (),
    script: Sequence[object] = (Path(__file__).with_name("serve_with_slow_edits.py"),),
    verify: bool | ssl.SSLContext = True,
) -> Iterator[Server]:
    """Serve until the block ends; what the server prints goes into ``folder``."""
    output = folder / "output.txt"
    command = [sys.executable, *script, studies, "--port", 0, *options]
    environment = {**os.environ, "CFMRI_MODELS": str(models)}
    with output.open("w") as stream:
        process = subprocess.Popen(list(map(str, command)), stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            url = _announced_url(process, output)
            with httpx.Client(base_url=url, timeout=60, verify=verify) as http:
                yield Server(url, studies, models, http, output, process.pid)
        finally:
            process.terminate()
            process.wait(20)


def _announced_url(process: subprocess.Popen[bytes], output: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        lines = [line for line in output.read_text().splitlines() if line.startswith("Serving on ")]
        if lines:
            return lines[0].split()[2]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"The server did not start:\n{output.read_text()}")
