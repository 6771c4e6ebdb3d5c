"""For how long is Slicer's event loop blocked? ``python measure_event_loop.py OUT.json [--shape I J K]``.

Goes through the panel as a user does, on a volume of full size and a real `cfmri serve`, and writes the longest time
between two beats of a 10 ms timer on the event loop, by step. Needs what the tests in this folder need.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import slicer_paths  # noqa: F401 - puts the stand-ins and the module on the path

# isort: split
import numpy as np
import slicer
from CounterfactualMRI import CounterfactualMRIWidget
from CounterfactualMRILib.difference import differenceOf
from CounterfactualMRILib.uncertainty import uncertaintyOf
from event_loop import BEAT_MS, Heartbeat, until
from live_server import served
from live_studies import simulated
from mrml_fixtures import Layout, makeVolume
from PySide6.QtCore import QSettings
from PySide6.QtWidgets import QApplication

LIMIT_MS = 100
SHAPE = (256, 256, 120)
SEED = 73000
WAIT_S = 3600
CHANGES = {"field_strength_t": 1.5, "echo_time_ms": 1.4, "repetition_time_ms": 4.3}


def measured(qapp, panel, address: str, volume, factual: dict, options: dict) -> dict[str, Heartbeat]:
    """Use the panel from the connection to the submitted label; return how the event loop fared, by step.

    Args:
        qapp: The Qt application.
        panel: The module's panel.
        address: A running `cfmri serve` with an image that has no label yet.
        volume: What to work on.
        factual: How it was acquired.
        options: Values of the advanced controls.
    """
    ui, steps = panel.ui, {}

    def step(name, act, isDone=lambda: not panel.display.isBusy):
        with Heartbeat() as steps[name]:
            act()
            until(qapp, isDone, WAIT_S)

    def choose():
        ui.inputSelector.setCurrentNode(volume)
        panel._setFactual(factual)
        panel.targets.setValues(CHANGES)
        panel.options.setValues({**panel.options.values(), **options, "uncertainty": True})
        panel.onRequestChanged()

    ui.addressComboBox.currentText = address
    step("connect", ui.testConnectionButton.click)
    step("choose a volume", choose)
    step("generate, import, compare, verdict", ui.generateButton.click)
    node = panel.parameterNode.resultVolume
    assert node is not None, ui.statusLabel.text
    assert uncertaintyOf(node) is not None
    step("difference map", ui.differenceButton.click, lambda: differenceOf(node) is not None)
    step("uncertainty overlay", ui.uncertaintyButton.click)
    step("segment", ui.segmentButton.click)
    ui.storeCheckBox.checked = True
    step("submit the label", ui.submitButton.click)
    assert "The label is on the server" in ui.caseLabel.text, ui.caseLabel.text
    step("next case", ui.nextCaseButton.click)
    assert ui.caseLabel.text.startswith("Loaded"), ui.caseLabel.text
    return steps


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    arguments = parser.parse_args()
    qapp = QApplication.instance() or QApplication([])
    with tempfile.TemporaryDirectory() as scratch:
        QSettings.setDefaultFormat(QSettings.IniFormat)
        QSettings.setPath(QSettings.IniFormat, QSettings.UserScope, scratch)
        studies = simulated(Path(scratch) / "studies", subjects=2, seed=SEED, slabMm=20)
        (sorted(studies.glob("sub-*"))[-1] / "labels.nii.gz").unlink()
        with served(studies, Path(scratch) / "output.txt") as address:
            steps = _measured(qapp, address, studies, tuple(arguments.shape))
    arguments.result.write_text(json.dumps(_report(steps, arguments.shape), indent=2) + "\n", encoding="utf-8")
    for name, heartbeat in steps.items():
        print(f"{1e3 * heartbeat.longestS:6.0f} ms  {name}")  # noqa: T201
    if max(heartbeat.longestS for heartbeat in steps.values()) > LIMIT_MS / 1e3:
        raise SystemExit(f"The event loop was blocked for more than {LIMIT_MS} ms.")


def _measured(qapp, address: str, studies: Path, shape) -> dict[str, Heartbeat]:
    slicer.startAgain()
    layout, panel = Layout(slicer.mrmlScene), CounterfactualMRIWidget()
    try:
        volume, factual = _volume(studies, shape)
        return measured(qapp, panel, address, volume, factual, {})
    finally:
        panel.cleanup()
        layout.close()


def _volume(studies: Path, shape):
    """A simulated scan of any size: its slices again and again, turned round each time."""
    from cfmri_core.data.studies import list_studies
    from cfmri_core.io.scan import read_scan

    scan = read_scan(list_studies(studies)[0].scan_path)
    voxels = scan.volume.voxels.transpose(2, 1, 0)
    after = [max(0, wanted - there) for wanted, there in zip(shape[::-1], voxels.shape, strict=True)]
    voxels = np.pad(voxels, [(0, length) for length in after], mode="symmetric")
    voxels = voxels[: shape[2], : shape[1], : shape[0]].astype(np.int16)
    volume = makeVolume(np.ascontiguousarray(voxels), scan.volume.affine, "scan")
    return volume, scan.acquisition.parameters.known()


def _report(steps: dict[str, Heartbeat], shape) -> dict:
    from cfmri_core.evaluation.origin import provenance

    worst = max(heartbeat.longestS for heartbeat in steps.values())
    return {
        "measure": "longest time between two beats of a timer on the Qt event loop, without the time in which other "
        "programs had the processor, in milliseconds",
        "limit_ms": LIMIT_MS,
        "longest_ms": round(1e3 * worst, 1),
        "beat_ms": BEAT_MS,
        "shape": list(shape),
        "seed": SEED,
        "steps_ms": {name: round(1e3 * heartbeat.longestS, 1) for name, heartbeat in steps.items()},
        "steps_on_the_wall_ms": {name: round(1e3 * heartbeat.longestWallS, 1) for name, heartbeat in steps.items()},
        "origin": provenance(),
    }


if __name__ == "__main__":
    main()
