"""What the ledger says about time: how long items take, how busy the device was, what a larger archive would cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import beta

from cfmri_core.batch.item import STAGES
from cfmri_core.batch.ledger import LedgerReport, State
from cfmri_core.evaluation.markdown import markdown_table
from cfmri_core.evaluation.origin import provenance
from cfmri_core.io.atomic import write_text

_DAY_H = 24.0
#: Numbers of machines that plans show.
MACHINES = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class Timeline:
    """Measured cost of a batch.

    Attributes:
        items: Items measured: done ones.
        seconds: Mean seconds of an item by stage.
        bytes_written: Mean size of an item's results.
        device_share: Share of the time from the first to the last use of a device in which it was in use, by device;
            runs are counted apart.
        elapsed_s: Time of all runs, from reading the first item to writing the last; workers start before that.
        workers: Workers of the last run.
        failed_share: Share of ended items that failed.
        redone: Items begun again after a crash.
    """

    items: int
    seconds: Mapping[str, float]
    bytes_written: float
    device_share: Mapping[str, float]
    elapsed_s: float
    workers: int
    failed_share: float
    redone: int

    @property
    def items_per_s(self) -> float:
        """Throughput of all runs together."""
        return self.items / self.elapsed_s if self.elapsed_s else 0.0


def timeline(ledger: LedgerReport) -> Timeline:
    """Measure the items that a ledger holds."""
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    turns: dict[tuple[int, str], list[tuple[float, float]]] = {}
    sizes: list[int] = []
    for row in ledger.ended():
        outcome: Mapping[str, Any] = row.outcome
        turns.setdefault((row.run, outcome["device"]), []).extend(map(tuple, outcome["device_turns"]))
        if row.state == State.DONE:
            sizes.append(outcome["bytes_written"])
            for stage in STAGES:
                seconds[stage].append(outcome["seconds"].get(stage, 0.0))
    spent = {stage: fmean(values) if values else 0.0 for stage, values in seconds.items()}
    counts, runs = ledger.counts(), ledger.runs()
    ended = sum(counts[state] for state in (State.DONE, State.REFUSED, State.FAILED))
    return Timeline(
        items=len(sizes),
        seconds=spent,
        bytes_written=fmean(sizes) if sizes else 0.0,
        device_share=_shares(turns),
        elapsed_s=sum(took + spent["read"] + spent["write"] for took in _spans(turns)),
        workers=runs[-1][3] if runs else 0,
        failed_share=counts[State.FAILED] / ended if ended else 0.0,
        redone=ledger.redone(),
    )


def plan_rows(measured: Timeline, items: int, machines: Sequence[int]) -> list[tuple[str, ...]]:
    """Return what so many items would take, one row per number of machines like the one that was measured."""
    rows: list[tuple[str, ...]] = [("machines", "hours", "days", "results", "items to fail", "machine hours")]
    for count in machines:
        hours = items / measured.items_per_s / count / 3600 if measured.items_per_s else float("nan")
        rows.append((
            str(count), f"{hours:,.0f}", f"{hours / _DAY_H:,.1f}", f"{items * measured.bytes_written / 1e12:.2f} TB",
            f"{items * measured.failed_share:,.0f}", f"{hours * count:,.0f}",
        ))  # fmt: skip
    return rows


def write_plan(path: Path, measured: Timeline, series: int, items: int) -> None:
    """Write what an archive of so many series, and so many items in all, would take, with what it was measured on."""
    costs = [("per item", "mean"), *((f"{stage}, s", f"{seconds:.2f}") for stage, seconds in measured.seconds.items())]
    costs += [("results, MB", f"{measured.bytes_written / 1e6:.1f}")]
    costs += [(f"{device} in use", f"{share:.0%}") for device, share in measured.device_share.items()]
    plan = plan_rows(measured, items, MACHINES)
    lines = [
        f"# A plan for {series:,} series: {items:,} items",
        "",
        f"Measured on {measured.items} items with {measured.workers} workers on one machine: "
        f"{3600 * measured.items_per_s:,.0f} items an hour, the start of the workers not counted. "
        "Another machine, another size of series or another edit needs its own measurement.",
        "",
        *markdown_table(costs[0], costs[1:]),
        "",
        *markdown_table(plan[0], plan[1:]),
        "",
        "Hours assume that the storage keeps up; a machine that is lost costs the items that its workers had in hand. "
        f"Items that fail are taken from the measured share, {measured.failed_share:.2%} of these items; from so few, "
        f"up to {_most_to_fail(measured):.2%} cannot be ruled out (95 %, one-sided), and of an archive that was not "
        "measured it says little.",
        "",
        *(f"- {name}: {value}" for name, value in provenance().items() if name != "command"),  # it holds paths
    ]
    write_text(path, "\n".join(lines) + "\n")


def _most_to_fail(measured: Timeline) -> float:
    """Upper limit of the share that fails (Clopper and Pearson 1934)."""
    done = measured.items
    failed = round(done * measured.failed_share / (1 - measured.failed_share)) if measured.failed_share < 1 else 1
    return float(beta.ppf(0.95, failed + 1, done)) if done else 1.0


def _spans(turns: Mapping[tuple[int, str], Iterable[tuple[float, float]]]) -> list[float]:
    """Return the time from the first to the last use of any device in each run."""
    ends: dict[int, list[float]] = {}
    for (run, _), used in turns.items():
        ends.setdefault(run, []).extend(end for began, took in used for end in (began, began + took))
    return [max(one) - min(one) for one in ends.values() if one]


def _shares(turns: Mapping[tuple[int, str], Iterable[tuple[float, float]]]) -> dict[str, float]:
    """Return the share of time in use by device: turns that overlap (a CPU is shared) count once."""
    busy: dict[str, float] = {}
    span: dict[str, float] = {}
    for (_, device), used in turns.items():
        ordered = sorted((began, began + took) for began, took in used)
        if not ordered:
            continue
        covered, reached = 0.0, ordered[0][0]
        for began, ended in ordered:
            covered += max(ended - max(began, reached), 0.0)
            reached = max(reached, ended)
        busy[device] = busy.get(device, 0.0) + covered
        span[device] = span.get(device, 0.0) + reached - ordered[0][0]
    return {device: round(busy[device] / span[device], 4) for device in busy if span[device]}
