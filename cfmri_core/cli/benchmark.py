"""The command `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cfmri_core.cli.console import emit, progress_shown, table
from cfmri_core.errors import RequestError


def bench(
    slices: Annotated[int, typer.Option(help="Slices of the volume.", min=4)] = 160,
    matrix: Annotated[int, typer.Option(help="Rows and columns of the volume.", min=32)] = 224,
    repeats: Annotated[int, typer.Option(help="Times each is measured; the median counts.", min=1)] = 5,
    growth: Annotated[
        str, typer.Option(help="Numbers of slices for growth of time and memory.")
    ] = "20,40,80,160,320,640",
    quality: Annotated[
        Path | None, typer.Option(help="Result file of suite edit, to show quality beside time.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Time edits and training beside the loop of the paper's authors, in one run. Nothing else should be running."""
    from cfmri_core.benchmark.bench import Plan, run_benchmark
    from cfmri_core.evaluation.origin import provenance
    from cfmri_core.models.device import resolved_device

    plan = Plan(
        slices=slices,
        matrix=matrix,
        repeats=repeats,
        growth=_numbers(growth),
        quality=quality,
        device=resolved_device(device),
    )
    with progress_shown() as progress:
        result = {"provenance": provenance(), **run_benchmark(plan, progress)}
    emit(result, json, _text(result))


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) >= 4 for part in parts):
        raise RequestError(f"--growth is '{text}'.", "Give numbers of slices from 4 on: 20,40,80.")
    return tuple(map(int, parts))


def _text(result: dict[str, Any]) -> str:
    volume = f"whole volume, {result['settings']['slices']} slices"
    rows = [(volume, "seconds", "times as fast as plain / fused")]
    rows += [(name, f"{seconds:.0f}", "") for name, seconds in result["authors_volume_s"].items()]
    for name, median in result["volume_median_s"].items():
        ratio = result["times_as_fast"][name]
        rows.append((name, f"{median:.1f}", " / ".join(f"{value:.0f}" for value in ratio.values())))
    ceilings, training, whole = result["ceilings_gflops"], result["training"], result["end_to_end"]
    lines = [table(rows), ""]
    lines += [
        f"{name}: {found['gflops']:.0f} GFLOP/s, {found['share_of_bfloat16_ceiling']:.0%} of the bfloat16 ceiling "
        f"({ceilings['bfloat16']:.0f}), {found['share_of_float32_ceiling']:.0%} of the float32 one "
        f"({ceilings['float32']:.0f})"
        for name, found in result["forward"].items()
    ]
    lines.append(f"DICOM to DICOM: {whole['median_s']:.1f} s, at most {whole['peak_mib']:.0f} MiB")
    lines += [
        f"{row['slices']} slices: {row['seconds']:.1f} s, {row['peak_mib']:.0f} MiB (volume {row['volume_mib']:.0f})"
        for row in result["growth"]
    ]
    lines.append(f"Training: {training['times_as_fast']:.1f} times the slices per second of the authors' loop")
    return "\n".join(lines)
