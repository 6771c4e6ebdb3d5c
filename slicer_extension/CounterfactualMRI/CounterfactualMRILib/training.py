"""Training on the server: start, watch, stop. Standard library only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Mapping
from urllib.parse import quote

from CounterfactualMRILib import problems, schema
from CounterfactualMRILib.client import Client, IsCancelled, Report, reportNothing
from CounterfactualMRILib.problems import Cancelled, ServerProblem


@dataclass(frozen=True)
class TrainingStatus:
    """State of a training on the server: none, preparing, running, done, failed or stopped.

    Attributes:
        loss: Training loss; ``None`` before the first step.
        score: Best validation score so far, lower is better; ``None`` before the first validation.
        remainingS: Estimated time left in seconds.
        note: What the server says is going on.
    """

    state: str
    epoch: int
    epochs: int
    loss: float | None
    score: float | None
    remainingS: float | None
    note: str

    @property
    def isOver(self) -> bool:
        """Whether the training has ended, one way or another."""
        return self.state in ("done", "failed", "stopped", "cancelled")

    @property
    def message(self) -> str:
        """One line for people."""
        if self.loss is None:
            return self.note or "Preparing the training"
        parts = [f"Epoch {self.epoch} of {self.epochs}", f"loss {self.loss:.3g}"]
        if self.score is not None:
            parts.append(f"best validation {self.score:.3g}")
        if self.remainingS:
            parts.append(f"about {self.remainingS:.0f} s left")
        return ", ".join(parts)


class Training:
    """The training of one model on the server's studies.

    Args:
        client: Of the server.
        model: Name of the model.
    """

    def __init__(self, client: Client, model: str) -> None:
        self._client, self._model = client, model

    def run(
        self,
        parameters: Mapping[str, Any],
        report: Report = reportNothing,
        isCancelled: IsCancelled = lambda: False,
    ) -> TrainingStatus:
        """Start a training and wait until it has ended; the status is reported as detail.

        Raises:
            Cancelled: ``isCancelled`` became true; the training was stopped.
            ServerProblem: It failed, or the server went away.
        """
        self.start(parameters)
        while True:
            if isCancelled():
                self.stop()
                raise Cancelled
            status = self.status()
            report(status.epoch, status.epochs, status.message, status)
            if status.isOver:
                return _requireTrained(status)
            time.sleep(self._client.timeouts.poll)

    def start(self, parameters: Mapping[str, Any]) -> None:
        """Start the training; the server runs it in the background."""
        self._client.request("POST", f"/train/{quote(self._model)}", json=dict(parameters))

    def status(self) -> TrainingStatus:
        """Return how far the training is."""
        answer = self._client.ask("GET", f"/train/progress/{quote(self._model)}")
        try:
            return TrainingStatus(
                state=str(answer.get("state") or "").lower(),
                epoch=int(answer.get("epoch") or 0),
                epochs=int(answer.get("epochs") or 0),
                loss=schema.numberOrNone(answer.get("loss")),
                score=schema.numberOrNone(answer.get("metric")),
                remainingS=schema.numberOrNone(answer.get("eta_s")),
                note=str(answer.get("message") or ""),
            )
        except (TypeError, ValueError) as error:
            raise self._client.unreadable("The server's report on the training cannot be read.", str(answer)) from error

    def stop(self) -> None:
        """Stop whatever training runs."""
        self._client.request("DELETE", "/train/")


def _requireTrained(status: TrainingStatus) -> TrainingStatus:
    if status.state != "done":
        reason = f": {status.note}" if status.note else ""
        hint = "A training needs studies with labels; the terminal where `cfmri serve` runs tells more."
        raise ServerProblem(problems.SERVER, f"The training {status.state}{reason}.", hint)
    return status
