"""Passes of a network over the slices of a volume, as many slices at once as memory allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from cfmri_core.errors import ResourceError

Result = TypeVar("Result")

#: Slices of one pass, where memory allows.
BATCH = 16
#: How often a pass may be halved; after that a device is too full to be worth waiting for.
MOST_HALVINGS = 4

#: What allocators without an exception of their own write into a RuntimeError: PyTorch's on a processor (Linux,
#: Windows), CUDA's, cuBLAS and cuDNN's, C++'s.
_ALLOCATION_FAILED = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED", "bad_alloc")


@dataclass(frozen=True)
class Batch:
    """The slices of one pass.

    Attributes:
        rows: Which slices.
        number: Passes done before it.
        count: Passes in all, as far as is known: more when memory runs out.
    """

    rows: slice
    number: int
    count: int


def in_batches(run: Callable[[Batch], Result], slices: Tensor, most: int = BATCH) -> list[Result]:
    """Run a pass over all slices, batch by batch; when memory runs out, again with half the batch.

    A slice's result must not depend on what else is in its batch, so how a volume is divided changes nothing.

    Args:
        run: One pass; leaves nothing behind when it fails.
        slices: What the passes go over, shape ``(slices, ..., rows, cols)``.
        most: Slices per pass, where memory allows.

    Returns:
        What the passes returned, in order.

    Raises:
        ResourceError: Memory runs out with a single slice, or after `MOST_HALVINGS` halvings.
    """
    count, size, halvings = len(slices), most, 0
    done: list[Result] = []
    start = 0
    while start < count:
        stop = min(start + size, count)
        passes = len(done) + -(-(count - start) // size)
        try:
            done.append(run(Batch(slice(start, stop), len(done), passes)))
            start = stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler: the error holds the frames of the failed pass, and those hold its tensors.
        free_caches()
        if stop - start == 1 or halvings == MOST_HALVINGS:
            raise _too_little_memory(slices, stop - start, halvings)
        size, halvings = (stop - start) // 2, halvings + 1
    return done


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a processor or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATION_FAILED)


def free_caches() -> None:
    """Give back what a GPU's allocator holds for later use only; does nothing where no GPU is in use."""
    torch.cuda.empty_cache()


def _too_little_memory(slices: Tensor, batch: int, halvings: int) -> ResourceError:
    rows, columns = slices.shape[-2:]
    return ResourceError(
        f"Memory ran out with {batch} of {len(slices)} slices of {rows} x {columns} pixels at once, after "
        f"{halvings} halvings.",
        "Wait until other programs need less memory, or use another device.",
    )
