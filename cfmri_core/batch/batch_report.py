"""The report of a batch, for people and for programs: what was made, how it was judged, and everything that was not."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfmri_core.batch.edits_file import Edit
from cfmri_core.batch.item import JUDGES, STOPPED, pictures_of
from cfmri_core.batch.ledger import LedgerReport, State
from cfmri_core.batch.timeline import timeline
from cfmri_core.evaluation import figures
from cfmri_core.evaluation.origin import provenance
from cfmri_core.evaluation.report import Notes, Picture, Report, Section, Table, number, write_report
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text, plain
from cfmri_core.pipeline.acceptance import VERDICTS
from cfmri_core.slices import SliceStack
from cfmri_core.volume import Volume

#: Rows of a table on the page; all of them are in report.json.
_MOST_ROWS = 500
_MOST_PICTURES = 6
_WINDOW_PERCENTILES = (0.5, 99.5)
_UNIT = "scanner units"
_NOT_MADE = ("edit", "series", "state", "reason")
_CHANGED = ("edit", "series")
_LEFT_OUT = ("series", "reason", "why")
_Texts = tuple[str, ...]
_LIMITS = (
    "All results are synthetic and not for diagnosis: they say so in their DICOM attributes and sidecars.",
    "Series are named by keys, which are one-way: nothing here names a patient, a study, a date or a file. "
    "The pictures and the results are patients' images all the same.",
    "A verdict is that of the models' own judges; their limits were learned on simulated breasts (see the README).",
)


def write_batch_report(
    folder: Path, edits: Sequence[Edit], ledger: LedgerReport, changed: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Write ``report.json`` and ``report.html``.

    Args:
        folder: Output folder of the batch.
        edits: What was wanted.
        ledger: What became of it.
        changed: Edit and series of the items that were made from other images than their series holds now.

    Returns:
        The content of ``report.json`` without its long lists: items and series that were left out. Of the items still
        to do, ``to_do`` names the first.
    """
    measured = timeline(ledger)
    not_made = [
        (row.edit, row.series, str(row.state), row.outcome["reason"])
        for row in ledger.ended()
        if row.state != State.DONE
    ]
    left_out = ledger.left_out()
    summary = {
        "synthetic": "results are synthetic, not for diagnosis",
        "items": {str(state): count for state, count in ledger.counts().items()},
        "edits": _edit_summaries(edits, ledger),
        "to_do": [f"{edit}/sub-{series}" for edit, series in itertools.islice(ledger.to_do(), _MOST_ROWS)],
        "changed": len(changed),
        "left_out": dict(Counter(reason for _, reason, _ in left_out)),
        "timeline": plain(measured),
        "items_per_s": round(measured.items_per_s, 4),
        # Not the command as typed: paths of an archive may name patients.
        "provenance": {**provenance(), "command": "cfmri batch"},
    }
    complete = {
        **summary,
        "not_made": [dict(zip(_NOT_MADE, row, strict=True)) for row in not_made],
        "made_before_a_change": [dict(zip(_CHANGED, row, strict=True)) for row in changed],
        "series_left_out": [dict(zip(_LEFT_OUT, row, strict=True)) for row in left_out],
    }
    write_text(folder / "report.json", json_text(complete) + "\n")
    write_report(folder / "report.html", _page(folder, summary, ledger, not_made, changed, left_out))
    return summary


def pictures(source: Volume, edited: Volume) -> list[dict[str, str]]:
    """Draw the middle slice of a scan and its counterfactual in one window, and their signed difference."""
    across = SliceStack.of(source, 1).slice_axis
    axes = [axis for axis in range(3) if axis != across] + [across]
    before, after = (Volume(np.transpose(one.voxels, axes), one.affine[:, [*axes, 3]]) for one in (source, edited))
    middle = before.shape[2] // 2
    shown = {"scan": before, "counterfactual (synthetic)": after}
    grey = {name: figures.oriented_slice(volume, middle) for name, volume in shown.items()}
    low, high = (float(value) for value in np.percentile(source.voxels, _WINDOW_PERCENTILES))
    window = low, max(high, low + 1e-6)
    change = {
        "counterfactual \N{MINUS SIGN} scan": figures.oriented_slice(
            before.with_voxels(after.voxels - before.voxels), middle
        )
    }
    limit = figures.difference_limit([slice_.pixels for slice_ in change.values()])
    return [
        {"uri": figures.comparison_figure(grey, window, _UNIT), "caption": "Middle slice, one grey window for both."},
        {"uri": figures.difference_figure(change, limit, _UNIT), "caption": "Signed difference; red is brighter."},
    ]


def _edit_summaries(edits: Sequence[Edit], ledger: LedgerReport) -> dict[str, dict[str, Any]]:
    counted = {edit.name: {name: Counter[str]() for name in ("states", *JUDGES)} for edit in edits}
    for row in ledger.ended():
        counts = counted[row.edit]
        counts["states"][row.state] += 1
        for result, judge in itertools.product(row.outcome["results"], JUDGES):
            counts[judge][result[judge]] += 1
    return {edit.name: {"outputs": edit.outputs, **counted[edit.name]} for edit in edits}


def _page(
    folder: Path, summary: dict[str, Any], ledger: LedgerReport,
    not_made: Sequence[_Texts], changed: Sequence[_Texts], left_out: Sequence[_Texts],
) -> Report:  # fmt: skip
    items = summary["items"]
    lead = (
        f"{items['done']} items done, {items['refused']} refused, {items['failed']} failed, "
        f"{items['todo'] + items['running']} still to do; {len(left_out)} series of the archive were left out."
    )
    sections = [
        Section("Verdicts", blocks=[_verdict_table(summary)]),
        Section("Time", blocks=[_time_table(summary)]),
        *_picture_sections(folder, ledger),
        Section("Refused and failed", blocks=_listed("Items without results.", _NOT_MADE, not_made)),
        Section("Made before a change", blocks=_listed("The series holds other images now.", _CHANGED, changed)),
        Section("Series left out", blocks=_listed("Not edited, whatever is asked for.", _LEFT_OUT, left_out)),
        Section("What this is not", blocks=[Notes(_LIMITS)]),
    ]
    return Report("Batch of counterfactuals", lead, sections, summary["provenance"])


def _verdict_table(summary: dict[str, Any]) -> Table:
    verdicts = (*VERDICTS, STOPPED)
    header = ["Edit", "Done", "Refused", "Failed", *(verdict.capitalize() for verdict in verdicts), "Outside support"]
    rows = []
    for name, edit in summary["edits"].items():
        states, acceptance = edit["states"], edit["acceptance"]
        counts = [states.get(state, 0) for state in (State.DONE, State.REFUSED, State.FAILED)]
        counts += [acceptance.get(verdict, 0) for verdict in verdicts] + [edit["support"].get("outside", 0)]
        rows.append([name, *map(str, counts)])
    return Table("Items by what they came to; counterfactuals by how their result was judged.", header, rows)


def _time_table(summary: dict[str, Any]) -> Table:
    measured = summary["timeline"]
    rows = [[f"{stage}, mean per item (s)", number(seconds)] for stage, seconds in measured["seconds"].items()]
    rows += [[f"{device} in use", f"{share:.0%}"] for device, share in measured["device_share"].items()]
    rows += [
        ["workers", str(measured["workers"])],
        ["items per minute", number(60 * summary["items_per_s"])],
        ["results, mean per item (MB)", number(measured["bytes_written"] / 1e6)],
        ["begun again after a crash", str(measured["redone"])],
    ]
    return Table("From the ledger. A device is in use from its first to its last item.", ["What", "Value"], rows)


def _picture_sections(folder: Path, ledger: LedgerReport) -> Iterator[Section]:
    shown = (row for row in ledger.ended() if row.outcome["has_pictures"])
    for row in itertools.islice(shown, _MOST_PICTURES):
        judged = json.dumps({key: row.outcome["results"][0].get(key) for key in JUDGES})
        kept = pictures_of(folder / row.edit / f"sub-{row.series}")
        blocks = [Picture(picture["uri"], picture["caption"]) for picture in kept]
        yield Section(f"{row.edit}: {row.series}", [f"Verdicts: {judged[1:-1]}."], blocks)


def _listed(caption: str, header: _Texts, rows: Sequence[_Texts]) -> list[Table | Picture | Notes]:
    if not rows:
        return [Notes(["None."])]
    rest = len(rows) - _MOST_ROWS
    notes = [Notes([f"{rest} more in report.json."])] if rest > 0 else []
    return [Table(caption, [name.capitalize() for name in header], rows[:_MOST_ROWS]), *notes]
