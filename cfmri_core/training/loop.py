"""The one training loop: mixed precision, moving average, resume, best weights, TensorBoard."""

from __future__ import annotations

import copy
import math
import pickle
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cfmri_core.errors import CheckpointError, ModelOutputError
from cfmri_core.io.atomic import atomic_file
from cfmri_core.progress import Progress, TrainingStep, silent
from cfmri_core.training.parallel import average_gradients, rank, require_same_step

#: A checkpoint is written at least this often, in seconds, unless that would take more than this share of the time.
_KEEP_EVERY_S, _KEEPING_SHARE = 10.0, 0.05

#: What reading a checkpoint raises that is damaged or not one.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, ImportError, OSError, struct.error,
)  # fmt: skip


class Loss(Protocol):
    """Draws a batch with the generator and returns its mean loss, a scalar tensor."""

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Return the loss."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        iterations: Optimiser steps.
        learning_rate: Peak; reached after 2 % of the steps, then a cosine down to 5 % of it.
        weight_decay: Of AdamW.
        gradient_norm: Gradients are clipped to this norm.
        average_decay: Decay of the moving average of the weights; it warms up, so short runs work too.
        validate_every: Steps between validations; each also writes the checkpoint that resume starts from. Between
            them it is written every 10 s.
        seed: Seed of batches and noise.
    """

    iterations: int
    learning_rate: float
    weight_decay: float = 1e-3
    gradient_norm: float = 1.0
    average_decay: float = 0.999
    validate_every: int = 200
    seed: int = 0


def train(
    network: nn.Module,
    loss: Loss,
    validate: Callable[[nn.Module], float],
    output: Path,
    schedule: Schedule,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> float:
    """Train a network in place; afterwards it holds the averaged weights that validated best.

    Step n draws its batch from a generator seeded by ``(seed, n)``, so a run that was killed and
    resumed sees the same batches as one that was not.

    Args:
        network: Trained in place.
        loss: Draws a batch and returns its loss.
        validate: Score of the averaged network, lower is better.
        output: Folder for ``checkpoint.pt`` and TensorBoard events.
        schedule: Length, speed, seed.
        resume: Go on from ``output/checkpoint.pt`` if it is there.
        progress: Called each step with a `TrainingStep`, and once at the start of a run that goes on; raise
            `Cancelled` in it to stop with the last checkpoint kept.

    Returns:
        The best validation score.

    Raises:
        ModelOutputError: The loss is not finite.
    """
    output.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(network.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay)
    average = copy.deepcopy(network).eval().requires_grad_(False)
    state = _State(network, average, optimizer)
    keeper = _Keeper(state, output / "checkpoint.pt")
    if resume and state.restore(keeper.path):
        keeper.kept_step = state.step
        progress(state.step, schedule.iterations, _told(f"goes on after step {state.step}", state, keeper))
    require_same_step(state.step)
    writer = SummaryWriter(str(output / "events"), purge_step=state.step + 1)  # the first step that is written again
    started, first = time.monotonic(), state.step
    while state.step < schedule.iterations:
        value = _one_step(state, loss, schedule)
        writer.add_scalar("train/loss", value, state.step)
        if state.step % schedule.validate_every == 0 or state.step == schedule.iterations:
            score = validate(average)
            writer.add_scalar("validation/score", score, state.step)
            state.keep_if_best(score)
            keeper.keep()
        elif keeper.is_due():
            keeper.keep()
        left = (time.monotonic() - started) / max(1, state.step - first) * (schedule.iterations - state.step)
        progress(state.step, schedule.iterations, _told(f"{left:.0f} s left", state, keeper, value))
    writer.close()
    if not state.best:  # it was stopped before the first validation, and goes on to no later step than that
        state.keep_if_best(validate(average))
    network.load_state_dict(state.best)
    return state.best_score


def _told(text: str, state: _State, keeper: _Keeper, loss: float | None = None) -> TrainingStep:
    best = state.best_score if math.isfinite(state.best_score) else None
    if loss is not None:
        text = f"loss {loss:.4f}, {'not validated yet' if best is None else f'best {best:.4f}'}, {text}"
    return TrainingStep(text, loss=loss, best_score=best, kept_step=keeper.kept_step)


class _State:
    """Everything a checkpoint holds."""

    def __init__(self, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.average, self.optimizer = network, average, optimizer
        self.step = 0
        self.best_score = math.inf
        self.best: dict[str, Tensor] = {}

    def keep_if_best(self, score: float) -> None:
        if score < self.best_score or not self.best:
            self.best_score = score
            self.best = {name: value.detach().clone() for name, value in self.average.state_dict().items()}

    def save(self, path: Path) -> None:
        content = {
            "step": self.step,
            "best_score": self.best_score,
            "best": self.best,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(path) as partial, partial.open("wb") as stream:
            try:
                torch.save(content, stream)
            except RuntimeError as error:  # torch says of a full disk only that positions differ
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def restore(self, path: Path) -> bool:
        """Take over what `save` wrote; ``False`` if there is nothing."""
        if not path.exists():
            return False
        try:
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict(content["network"])
            self.average.load_state_dict(content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            step, score, best = int(content["step"]), float(content["best_score"]), dict(content["best"])
            if best:
                copy.deepcopy(self.average).load_state_dict(best)
        except _UNREADABLE as error:
            raise CheckpointError(
                f"{path} is not a checkpoint of this run.", "Train with the same preset and data, or without --resume."
            ) from error
        self.step, self.best_score, self.best = step, score, best
        return True


class _Keeper:
    """Writes the checkpoint: at validations, and in between when the last one is old."""

    def __init__(self, state: _State, path: Path) -> None:
        self.state, self.path = state, path
        self.kept_step = 0
        self._due_s = time.monotonic() + _KEEP_EVERY_S

    def is_due(self) -> bool:
        return time.monotonic() >= self._due_s

    def keep(self) -> None:
        started = time.monotonic()
        self.state.save(self.path)
        ended = time.monotonic()
        self.kept_step = self.state.step
        self._due_s = ended + max(_KEEP_EVERY_S, (ended - started) / _KEEPING_SHARE)


def _one_step(state: _State, loss: Loss, schedule: Schedule) -> float:
    generator = torch.Generator().manual_seed(batch_seed(schedule.seed, state.step, rank()))
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(schedule, state.step)
    state.network.train()
    value = loss(state.network, generator)
    if not torch.isfinite(value):
        raise ModelOutputError(f"The loss is {value.item()} at step {state.step}.", "Lower the learning rate.")
    state.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    average_gradients(state.network)
    nn.utils.clip_grad_norm_(state.network.parameters(), schedule.gradient_norm)
    state.optimizer.step()
    state.step += 1
    _update_average(state, schedule)
    return float(value.detach())


def batch_seed(seed: int, step: int, process: int = 0) -> int:
    """Return what the batch of a step is drawn with, in one of several processes (see `parallel`)."""
    return seed * 1_000_003 + step + process * 2_000_003_000_003


def learning_rate(schedule: Schedule, step: int) -> float:
    """Learning rate of a step: linear warm-up over 2 % of the run, then cosine down to 5 % of the peak."""
    warm_up = max(1, schedule.iterations // 50)
    if step < warm_up:
        return schedule.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(1, schedule.iterations - warm_up)
    return schedule.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def _update_average(state: _State, schedule: Schedule) -> None:
    decay = min(schedule.average_decay, (1 + state.step) / (10 + state.step))
    source = state.network.state_dict()
    with torch.no_grad():
        for name, value in state.average.state_dict().items():
            if value.dtype.is_floating_point:
                value.lerp_(source[name].to(value.dtype), 1 - decay)
            else:
                value.copy_(source[name])
