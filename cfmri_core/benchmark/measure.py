"""Measure time, memory and arithmetic honestly: alternating, medians, the machine's own ceiling."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cfmri_core.progress import Progress, silent

Work = Callable[[], object]

#: Side of the matrices whose product is timed for the ceiling, and how often.
_MATRIX_SIDE, _PRODUCTS = 2048, 7
#: Operations that take less of the time than this are not told apart.
_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Timing:
    """How long something took, several times.

    Attributes:
        seconds: One per repeat, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)


def alternating(work: Mapping[str, Work], repeats: int, device: str, progress: Progress = silent) -> dict[str, Timing]:
    """Time several pieces of work in turn, so that what slows the machine down slows all of them.

    Every piece runs once before, unmeasured.

    Args:
        work: Name to what is timed.
        repeats: Times each is measured.
        device: Waited for, so that queued work on a GPU counts.
        progress: Called after each piece.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    total = (repeats + 1) * len(work)
    for turn in range(repeats + 1):
        for place, (name, piece) in enumerate(work.items()):
            _wait(device)
            started = time.perf_counter()
            piece()
            _wait(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
            progress(turn * len(work) + place + 1, total, name)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def ceilings_gflops(device: str) -> dict[str, float]:
    """Return what the device reaches in a large matrix product, by data type, in GFLOP/s."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left, right = (torch.randn(_MATRIX_SIDE, _MATRIX_SIDE, device=device, dtype=dtype) for _ in range(2))
        timing = alternating({name: lambda left=left, right=right: left @ right}, _PRODUCTS, device)[name]  # type: ignore[misc]
        found[name] = 2 * _MATRIX_SIDE**3 / timing.median / 1e9
    return found


def shares_of(work: Work) -> dict[str, float]:
    """Return which share of a piece of work's time goes to what on the processor; operations under 2 % in sum."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    spent = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(spent.values())
    shares = {name: time_us / total for name, time_us in sorted(spent.items(), key=lambda item: -item[1])}
    large = {name: share for name, share in shares.items() if share >= _LEAST_SHARE}
    return {**large, "other": 1 - sum(large.values())}


def gflop_of(work: Work) -> float:
    """Count the arithmetic of a piece of work, in GFLOP; a multiplication and an addition count as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops()) / 1e9


def in_own_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Run a function in a fresh process; return its result and the process's peak memory in MiB."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result, peak_mib = pool.submit(_with_peak, function, arguments).result()
    return result, float(peak_mib)


def forget_peak_memory() -> None:
    """Measure the peak of this process from here on: what preparing took does not count. Linux only, else a no-op."""
    try:
        # proc(5): writing 5 resets the peak resident set size to what is resident now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _with_peak(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, float]:
    result = function(*arguments)
    return result, _peak_mib()


def _peak_mib() -> float:
    """Peak resident memory of this process; `getrusage` would count what the parent had when it forked."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
