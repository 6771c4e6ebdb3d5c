"""How far a training is: a JSON file that the training process writes and the server reads."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_core.evaluation.candidate import COMPARING
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.progress import TrainingStep
from cfmri_core.training.counterfactuals import MAKING_COUNTERFACTUALS

logger = logging.getLogger("cfmri.training")

#: Optimiser steps that count as one epoch; batches are drawn at random, so an epoch is only a unit of length.
STEPS_PER_EPOCH = 20

#: Shortest time between two writes, in seconds.
_WRITE_EVERY_S = 0.5

#: What else is told besides steps; any other message may name a subject and is not passed on.
_PHASES = {MAKING_COUNTERFACTUALS: "Making counterfactuals", COMPARING: "Comparing with the model in use"}
_READING = "Reading studies"

#: What the file holds before any training. ``metric`` is the best validation score so far, lower is better;
#: ``kept_epoch`` the one that a stopped training goes on after; ``curve`` rows of epoch, mean loss, metric.
EMPTY_PROGRESS: Mapping[str, Any] = {
    "model": "", "state": "none", "epoch": 0, "epochs": 0, "loss": None, "metric": None, "eta_s": None, "message": "",
    "kept_epoch": 0, "curve": [], "published": None, "comparison": None,
}  # fmt: skip


class ProgressFile:
    """Turns progress reports of `cfmri_core.training` into the file; callable as a `Progress`.

    Args:
        path: The file.
        model: Name of the model.
        epochs: Length of the training.
        goes_on: Whether the training goes on from a checkpoint: the curve in the file is its beginning.
    """

    def __init__(self, path: Path, model: str, epochs: int, *, goes_on: bool = False) -> None:
        self.path = path
        self._content = {**EMPTY_PROGRESS, "model": model, "state": "preparing", "epochs": epochs}
        self._content["curve"] = read_progress(path)["curve"] if goes_on else []
        self._written_s = 0.0
        self._first: tuple[int, float] | None = None
        self._losses: list[float] = []
        self._write(force=True)

    def __call__(self, step: int, total: int, message: str) -> None:
        """Take one report: of an optimiser step, or of what comes before and after them."""
        if isinstance(message, TrainingStep):
            self._take_step(step, total, message)
        else:
            self._content |= {"message": f"{_PHASES.get(message, _READING)}, {step} of {total}"}
            self._write()

    def end(self, state: str, message: str = "", *, published: bool | None = None, comparison: object = None) -> None:
        """Write the final state: ``done`` or ``failed``, and whether the model is now in use."""
        self._content |= {"state": state, "eta_s": 0.0 if state == "done" else None, "message": message}
        self._content |= {"published": published, "comparison": comparison}
        self._write(force=True)

    def _take_step(self, step: int, total: int, told: TrainingStep) -> None:
        epoch, epoch_before = -(-step // STEPS_PER_EPOCH), self._content["epoch"]
        self._content |= {
            "state": "running",
            "epoch": epoch,
            "epochs": -(-total // STEPS_PER_EPOCH),
            "loss": told.loss,
            "metric": told.best_score,
            "eta_s": self._eta_s(step, total),
            "message": str(told),
            "kept_epoch": told.kept_step // STEPS_PER_EPOCH,
        }
        if epoch != epoch_before:
            logger.info("epoch %d of %d: %s", epoch, self._content["epochs"], told)
            self._losses = []
        if told.loss is not None:
            self._losses.append(told.loss)
            earlier = [row for row in self._content["curve"] if row[0] < epoch]
            self._content["curve"] = [*earlier, [epoch, sum(self._losses) / len(self._losses), told.best_score]]
        self._write()

    def _eta_s(self, step: int, total: int) -> float | None:
        now = time.monotonic()
        first_step, first_s = self._first = self._first or (step, now)
        return round((now - first_s) / (step - first_step) * (total - step), 1) if step > first_step else None

    def _write(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._written_s >= _WRITE_EVERY_S:
            self._written_s = now
            write_text(self.path, json_text(self._content, indent=None))


def read_progress(path: Path) -> dict[str, Any]:
    """Return what the file holds; `EMPTY_PROGRESS` if there is none that can be read."""
    try:
        return {**EMPTY_PROGRESS, **json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return dict(EMPTY_PROGRESS)
