"""The command `batch`."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.cli.console import emit, note, progress_shown, table, warn
from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import json_text

if TYPE_CHECKING:
    from cfmri_core.batch.engine import Batch, Executor, Standing
    from cfmri_core.batch.source import Source
    from cfmri_core.progress import Progress

#: Nothing went wrong with the batch, but some items failed, are still to do or out of date; the report names them.
SOME_NOT_DONE = 10
_MOST_NAMED = 3
_MOST_WORKERS_PER_GPU = 8
_SECONDS_BETWEEN_LINES = 5.0


def batch(
    root: Annotated[Path, typer.Argument(help="Any tree of DICOM files; nothing is written into it.")],
    out: Annotated[
        Path | None, typer.Argument(help="Output folder; the only argument with --pacs. Repeated, the command goes on.")
    ] = None,
    *,
    edits: Annotated[
        Path, typer.Option(metavar="EDITS.yaml", help="Which counterfactuals are wanted of which series.")
    ],
    pacs: Annotated[str | None, typer.Option(metavar="URL", help="Take the series from this DICOMweb archive.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 for one per core, at most 8 per GPU.")] = 0,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Workers on a Ray cluster; 'local' starts one.")
    ] = None,
    slurm: Annotated[
        Path | None, typer.Option(metavar="CONF.yaml", help="Workers as Slurm jobs; CONF holds submitit's parameters.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Only go on: OUT must have been begun before.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do failed items again, and those whose series has changed since.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and, once OUT has timings, how long it takes.")
    ] = False,
    series: Annotated[int | None, typer.Option(min=1, help="With --dry-run: plan for an archive of so many.")] = None,
    plan: Annotated[Path | None, typer.Option(help="With --dry-run: write that plan here, as Markdown.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    model: Annotated[Path | None, typer.Option(help="Model folder, instead of the shipped ones.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines only.")] = False,
) -> None:
    """Make counterfactuals of a whole archive: derived series, segmentations, and a report of all that was refused.

    Ends with 0 if every item was made or refused, 10 if some failed, are still to do, or were made before their series
    changed (see OUT/report.html); a full disk (7) or Ctrl-C (130) ends it early, and the same command goes on.
    """
    import torch

    from cfmri_core.batch.edits_file import read_edits
    from cfmri_core.batch.engine import Batch
    from cfmri_core.batch.item import Job
    from cfmri_core.batch.ledger import FILE_NAME
    from cfmri_core.pipeline.method import default_method

    source, out = _source(root, out, pacs)
    if resume and not (out / FILE_NAME).is_file():
        raise RequestError(f"{out} holds no batch to go on with.", "Leave out --resume to begin one.")
    wanted = read_edits(edits, default_method(model))
    devices = _devices(device)
    count = workers or min(os.cpu_count() or 1, _MOST_WORKERS_PER_GPU * len(devices) if "cuda" in devices[0] else 10**6)
    job = Job(source, out.resolve(), _model_root(model), devices, max(1, torch.get_num_threads() // count))
    planned = Batch(job, wanted)
    if dry_run:
        _dry_run(planned, [edit.name for edit in wanted], out, series, plan, as_json)
        return
    with progress_shown() as progress:
        summary = planned.run(
            _executor(ray, slurm), count, retry_failed=retry_failed,
            indexing=(lambda *_: None) if as_json else progress, standing=_told(progress, as_json),
        )  # fmt: skip
    _close(summary, out, as_json)


def _close(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    """Say what became of the items, and leave with `SOME_NOT_DONE` where that is so."""
    items = summary["items"]
    to_do = items["todo"] + items["running"]
    if as_json:
        _line({"event": "summary", "output": out, **summary})
    else:
        text = ", ".join(f"{items[state]} {state}" for state in ("done", "refused", "failed"))
        note(f"{text}. SYNTHETIC, not for diagnosis.")
        if to_do:
            note(f"{to_do} still to do, as the archive does not offer their series now: {_first(summary['to_do'])}.")
        for name in (name for name, edit in summary["edits"].items() if not sum(edit["states"].values())):
            warn(f"edit '{name}' selected no series: see its 'where', and what the report says is left out.")
        if summary["changed"]:
            note(f"{summary['changed']} made before their series changed: --retry-failed makes them again.")
        emit(None, as_json, f"Report: {out / 'report.html'}")
    if items["failed"] or to_do or summary["changed"]:
        raise typer.Exit(SOME_NOT_DONE)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def _source(root: Path, out: Path | None, pacs: str | None) -> tuple[Source, Path]:
    """Return where series come from and where results go: ROOT OUT, or OUT --pacs URL."""
    from cfmri_core.batch.engine import index_cache, require_apart
    from cfmri_core.batch.source import Pacs, Tree

    if pacs is not None:
        if out is not None:
            raise RequestError("--pacs takes the place of ROOT.", "Give: cfmri batch OUT --pacs URL --edits EDITS.yaml")
        return Pacs(pacs), root
    if out is None:
        raise RequestError("ROOT and OUT are needed.", "Give: cfmri batch ROOT OUT --edits EDITS.yaml, or --pacs URL.")
    require_apart(root, out)
    return Tree(root.resolve(), index_cache(root, out, _cache_folder())), out


def _executor(ray: str | None, slurm: Path | None) -> Executor:
    if ray and slurm:
        raise RequestError("--ray and --slurm are two ways to run.", "Give one of them.")
    if ray:
        from cfmri_core.batch.ray_cluster import ray_executor

        return ray_executor(ray)
    if slurm:
        from cfmri_core.batch.slurm import slurm_executor

        return slurm_executor(slurm)
    from cfmri_core.batch.local import run_local

    return run_local


def _told(progress: Progress, as_json: bool) -> Callable[[Standing], None]:
    """Return what tells of progress: a bar or now and then a line, or JSON lines."""
    told_at = -float("inf")

    def tell(standing: Standing) -> None:
        nonlocal told_at
        left_s = standing.remaining_s
        if as_json:
            if time.monotonic() - told_at >= _SECONDS_BETWEEN_LINES or standing.ended == standing.total:
                told_at = time.monotonic()
                counts = {str(state): number for state, number in standing.counts.items()}
                _line(
                    {
                        "event": "progress",
                        **counts,
                        "items_per_s": round(standing.items_per_s, 4),
                        "remaining_s": left_s,
                    }
                )
            return
        eta = "" if left_s is None else f", {timedelta(seconds=round(left_s))} to go"
        failed = sum(standing.counts[state] for state in standing.counts if state in ("failed", "refused"))
        message = f"{60 * standing.items_per_s:.3g} items a minute{eta}, {failed} failed or refused"
        progress(standing.ended, standing.total, message)

    return tell


def _dry_run(
    planned: Batch, names: Sequence[str], out: Path, series: int | None, plan: Path | None, as_json: bool
) -> None:
    from cfmri_core.batch.ledger import LedgerReport
    from cfmri_core.batch.timeline import MACHINES, plan_rows, timeline, write_plan

    counted: Counter[str] = Counter(dict.fromkeys(names, 0))
    left_out: Counter[str] = Counter()
    total = 0
    with progress_shown() as progress:
        for entry in planned.entries(progress):
            total += 1
            wanted = planned.items(entry)
            if entry.refusal is not None and not wanted:
                left_out[str(entry.reason)] += 1
            counted.update(edit.name for edit in wanted)
    rows = [("edit", "series"), *((name, str(number)) for name, number in counted.items())]
    text = [f"{total} series, {sum(left_out.values())} left out. Nothing was written.", table(rows)]
    text += [f"left out, {reason}: {number}" for reason, number in sorted(left_out.items())]
    with LedgerReport.of_folder(out) as ledger:
        measured = timeline(ledger) if ledger else None
    hours: list[tuple[str, ...]] = []
    if plan and not (measured and measured.items):
        raise RequestError(f"{out} has no timings to plan with.", "Run the batch on a part of the archive first.")
    if measured and measured.items:
        asked = series or total
        items = round(asked * sum(counted.values()) / max(total, 1))
        hours = plan_rows(measured, items, MACHINES)
        if plan:
            write_plan(plan, measured, asked, items)
        spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in measured.seconds.items())
        text.append(
            f"Measured on {measured.items} items with {measured.workers} workers: {spent} an item, "
            f"{3600 * measured.items_per_s:,.0f} items an hour. "
            f"At that rate, {asked:,} such series, {items:,} items:\n{table(hours)}"
        )
    said = {"series": total, "items": counted, "left_out": left_out, "measured": measured, "plan": hours}
    emit(said, as_json, "\n".join(text))


def _devices(device: str) -> tuple[str, ...]:
    from cfmri_core.models.device import resolved_device

    resolved = resolved_device(device)
    if device != "auto" or resolved == "cpu":
        return (resolved,)
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def _model_root(model: Path | None) -> Path | None:
    named = model or (Path(os.environ["CFMRI_MODELS"]) if os.environ.get("CFMRI_MODELS") else None)
    return named.resolve() if named else None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cfmri"


def _line(event: dict[str, Any]) -> None:
    typer.echo(json_text(event, indent=None))
