"""How long work tells where it stands, and how it is cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

#: Called as ``progress(step, total, message)``. Raise `cfmri_core.errors.Cancelled` in it to cancel.
Progress = Callable[[int, int, str], None]


class TrainingStep(str):
    """The message of one optimiser step: text for people that carries its numbers.

    Attributes:
        loss: Of the step's batch; ``None`` before the first step of this process.
        best_score: Best validation so far, lower is better; ``None`` before the first one.
        kept_step: Step that the last checkpoint holds; 0 before the first one.
    """

    __slots__ = ("best_score", "kept_step", "loss")

    loss: float | None
    best_score: float | None
    kept_step: int

    def __new__(cls, text: str, *, loss: float | None, best_score: float | None, kept_step: int) -> Self:
        """Attach the numbers to the text."""
        step = super().__new__(cls, text)
        step.loss, step.best_score, step.kept_step = loss, best_score, kept_step
        return step


def silent(step: int, total: int, message: str) -> None:
    """Report nothing."""


def prefixed(progress: Progress, prefix: str) -> Progress:
    """Return a progress that says before each message what it belongs to."""

    def report(step: int, total: int, message: str) -> None:
        progress(step, total, f"{prefix}: {message}")

    return report
