"""One training in several processes, each on its own GPU: ``torchrun --nproc-per-node N -m cfmri_core train ...``.

Every process draws batches of its own, and gradients are averaged: a step is that of one process with N times the
batch. The first process writes; what the others would write goes to a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed, nn

from cfmri_core.errors import CheckpointError


@dataclass(frozen=True)
class Place:
    """Where one of several processes works.

    Attributes:
        is_first: Whether it reports and writes.
        device: Its device.
        output: Its output folder.
    """

    is_first: bool
    device: str
    output: Path


@contextlib.contextmanager
def place(device: str, output: Path) -> Iterator[Place]:
    """Join the processes that ``torchrun`` started, if it did; a process on its own gets back what it gave.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; of several processes on GPUs each takes the one of its number.
        output: Output folder; the checkpoints below it are what all processes go on from.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Place(True, device, output)
        return
    is_cuda = device.startswith("cuda")
    own = f"cuda:{int(os.environ['LOCAL_RANK'])}" if is_cuda else device
    if is_cuda:
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        if rank() == 0:
            distributed.barrier()  # the others copy before this process writes
            yield Place(True, own, output)
        else:
            with tempfile.TemporaryDirectory(prefix="cfmri-train-") as folder:
                _copy_checkpoints(output, Path(folder))
                distributed.barrier()
                yield Place(False, own, Path(folder))
    finally:
        distributed.destroy_process_group()


def _copy_checkpoints(output: Path, folder: Path) -> None:
    """Copy every checkpoint: a training in parts has one for each part."""
    for checkpoint in output.rglob("checkpoint.pt"):
        copy = folder / checkpoint.relative_to(output)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, copy)


def rank() -> int:
    """Return the number of this process among those of the training; 0 for one on its own."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def require_same_step(step: int) -> None:
    """Refuse to average the gradients of processes that are not at the same step.

    Raises:
        CheckpointError: They are not.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    steps: list[int | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"The processes of this training are at the steps {', '.join(map(str, steps))}.",
            "Start it again; if that does not help, without --resume.",
        )


def average_gradients(network: nn.Module) -> None:
    """Replace each gradient by its mean over the processes; one process keeps its own."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # What a batch did not need has no gradient, but must have its place: all processes add up the same numbers.
    for parameter in network.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(together, [one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
