"""How far a training is: a JSON file that the training process writes and the server reads."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_core.io.atomic import write_text

logger = logging.getLogger("cfmri.training")

#: Optimiser steps that count as one epoch; batches are drawn at random, so an epoch is only a unit of length.
STEPS_PER_EPOCH = 20

#: Shortest time between two writes, in seconds.
_WRITE_EVERY_S = 0.5

_NUMBER = r"(-?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf))"
_LOSS = re.compile(rf"loss {_NUMBER}", re.IGNORECASE)
_METRIC = re.compile(rf"best {_NUMBER}", re.IGNORECASE)


#: What the file holds before any training. ``metric`` is the best validation score so far; lower is better.
EMPTY_PROGRESS: Mapping[str, Any] = {
    "model": "", "state": "none", "epoch": 0, "epochs": 0, "loss": None, "metric": None, "eta_s": None, "message": "",
}  # fmt: skip


class ProgressFile:
    """Turns progress reports of `cfmri_core.training` into the file; callable as a `Progress`.

    Args:
        path: The file.
        model: Name of the model.
        epochs: Length of the training.
    """

    def __init__(self, path: Path, model: str, epochs: int) -> None:
        self.path = path
        self._content = {**EMPTY_PROGRESS, "model": model, "state": "preparing", "epochs": epochs}
        self._written_s = 0.0
        self._first: tuple[int, float] | None = None
        self._write(force=True)

    def __call__(self, step: int, total: int, message: str) -> None:
        """Take one report: while data are read, and then of each optimiser step."""
        loss = _LOSS.search(message)
        if loss is None:
            what = "Making counterfactuals" if "counterfactual" in message else "Reading studies"
            self._content |= {"state": "preparing", "message": f"{what}, {step} of {total}"}
            self._write()
            return
        epoch_before = self._content["epoch"]
        self._content |= {
            "state": "running",
            "epoch": -(-step // STEPS_PER_EPOCH),
            "epochs": -(-total // STEPS_PER_EPOCH),
            "loss": _finite(loss.group(1)),
            "metric": _finite(found.group(1)) if (found := _METRIC.search(message)) else None,
            "eta_s": self._eta_s(step, total),
            "message": message,
        }
        if self._content["epoch"] != epoch_before:
            logger.info("epoch %d of %d: %s", self._content["epoch"], self._content["epochs"], message)
        self._write()

    def end(self, state: str, message: str = "") -> None:
        """Write the final state: ``done`` or ``failed``."""
        self._content |= {"state": state, "eta_s": 0.0 if state == "done" else None, "message": message}
        self._write(force=True)

    def _eta_s(self, step: int, total: int) -> float | None:
        now = time.monotonic()
        first_step, first_s = self._first = self._first or (step, now)
        return round((now - first_s) / (step - first_step) * (total - step), 1) if step > first_step else None

    def _write(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._written_s >= _WRITE_EVERY_S:
            self._written_s = now
            write_text(self.path, json.dumps(self._content))


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None
