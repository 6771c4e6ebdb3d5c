"""The part of EVALUATION.md about speed, from what `cfmri bench` wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfmri_core.evaluation.markdown import NOTHING, interval_text, markdown_table
from cfmri_core.evaluation.result_file import ResultFile

_NOTE = """One run with no other program beside it, on a machine that shares its processor with others; medians. The
authors' loop: their network at the published size, 50 guided steps a slice; a volume's time is that of one step, times
steps, times slices. Quality: suite edit, to the other manufacturer, as it was measured when this ran. *Ceiling*: what
the machine reaches in a large matrix product, which lives in cache. What keeps a pass below it is in the last column:
besides convolutions it normalises, adds, activates and copies, a few operations for each number that is fetched from
memory.
Peak memory while editing: the program, the source, the result, and what works on a part of the slices at a time, which
hardly grows with the volume once that fills a part.
"""
_GROWTH_HEADER = ["Slices", "Seconds", "Peak memory, MiB", "Volume, MiB", "Peak without source and result, MiB"]
_QUALITY = (("slope", 2), ("psnr_db", 1), ("ssim", 3))


def speed_section(files: Sequence[ResultFile]) -> str:
    """Return the section on speed.

    Args:
        files: Result files of suite `speed`.
    """
    lines = ["## Speed", "", _NOTE]
    for file in files:
        found = file.content
        whole, training, ceiling = found["end_to_end"], found["training"], found["ceilings_gflops"]["bfloat16"]
        lines += [*_volumes(found), "", *_forwards(found["forward"], ceiling), ""]
        lines += [*markdown_table(_GROWTH_HEADER, _growth(found)), ""]
        lines += [
            f"DICOM folder to DICOM folder, {whole['slices']} slices, models loaded and judged: "
            f"{whole['median_s']:.1f} s, at most {whole['peak_mib']:.0f} MiB. Training at the published size: "
            f"{training['times_as_fast']:.1f} times the slices per second of the authors' loop.",
            "",
        ]
    return "\n".join(lines)


def _volumes(found: Mapping[str, Any]) -> list[str]:
    slices, quality = found["settings"]["slices"], found["quality"]
    header = [
        f"Volume of {slices} slices",
        "Seconds",
        "Times as fast, plain / fused attention",
        "Slope",
        "PSNR, dB",
        "SSIM",
    ]
    reached = [interval_text(quality.get("paper", {}).get(name), digits) for name, digits in _QUALITY]
    rows = [[name, f"{seconds:,.0f}", NOTHING, *reached] for name, seconds in found["authors_volume_s"].items()]
    for name, seconds in found["volume_median_s"].items():
        times = " / ".join(f"{value:,.0f}" for value in found["times_as_fast"][name].values())
        reached = [interval_text(quality.get(name, {}).get(metric), digits) for metric, digits in _QUALITY]
        rows.append([name, f"{seconds:.1f}", times, *reached])
    return markdown_table(header, rows)


def _forwards(found: Mapping[str, Any], ceiling: float) -> list[str]:
    header = [
        "One pass of",
        "GFLOP a slice",
        "GFLOP/s",
        f"of the bfloat16 ceiling ({ceiling:.0f})",
        "where the time goes",
    ]
    rows = [
        [
            name,
            f"{one['gflop_per_slice']:.2f}",
            f"{one['gflops']:.0f}",
            f"{one['share_of_bfloat16_ceiling']:.0%}",
            ", ".join(f"{operation} {share:.0%}" for operation, share in one["time_spent"].items()),
        ]
        for name, one in found.items()
    ]
    return markdown_table(header, rows)


def _growth(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            str(row["slices"]),
            f"{row['seconds']:.2f}",
            f"{row['peak_mib']:.0f}",
            f"{row['volume_mib']:.0f}",
            f"{row['peak_mib'] - 2 * row['volume_mib']:.0f}",
        ]
        for row in found["growth"]
    ]
