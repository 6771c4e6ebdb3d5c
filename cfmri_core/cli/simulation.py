"""The command that makes studies out of nothing: `simulate`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cfmri_core.acquisition import parse_assignments, require_parameter
from cfmri_core.cli.console import emit, progress_shown
from cfmri_core.errors import RequestError


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder that receives sub-0001 and so on.")],
    subjects: Annotated[int, typer.Option(help="How many.")] = 1,
    seed: Annotated[int, typer.Option(help="Subject n is made from seed + n.")] = 0,
    labels: Annotated[
        Path | None, typer.Option(help="NIfTI label map, or folder of them, to render instead of drawn anatomies.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Fix a parameter; the others are drawn.")
    ] = None,
    paired: Annotated[
        Path | None,
        typer.Option(
            help='JSON: {"name": {"echo_time_ms": 1.4} or a preset or "same", "without-lesions", "other-manufacturer", '
            '"duke", "decorrelated", "single:echo_time_ms", "share:+0.2"}; a list, or "duke*3", gives name-1 and so on.'
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Parameter that paired renderings take from the source.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="How sources are drawn: duke (as on scanners) or decorrelated (each on its own).")
    ] = "duke",
    setting: Annotated[
        str, typer.Option(help="Simulator setting: default, or shifted (never used for training).")
    ] = "default",
    lesions: Annotated[int, typer.Option(help="Masses per subject; their mask is lesion.nii.gz.", min=0)] = 0,
    enhanced: Annotated[
        bool, typer.Option("--enhanced", help="Scan after a contrast agent was given, so that masses stand out.")
    ] = False,
    varied: Annotated[
        bool, typer.Option("--varied", help="Draw other builds too: other sizes, one breast, no thorax.")
    ] = False,
    slab_mm: Annotated[float, typer.Option(help="Extent along the body in mm.")] = 60.0,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one per core.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Simulate breast MR studies: DICOM series, tissue labels, and paired truth under other parameters."""
    from cfmri_core.simulation.study import StudyPlan, simulate_dataset

    changes = parse_assignments(set_ or [])
    targets = read_paired(paired) if paired else {}
    kept = tuple(keep or ())
    for name in kept:
        require_parameter(name)
    plan = StudyPlan(
        changes=changes, protocol=protocol, paired=targets, kept=kept, setting=setting, labels=label_maps(labels),
        lesions=lesions, enhanced=enhanced, slab_mm=slab_mm, varied=varied,
    )  # fmt: skip
    with progress_shown() as progress:
        folders = simulate_dataset(out, subjects, seed, plan, workers=workers or os.cpu_count() or 1, progress=progress)
    emit({"studies": folders, "seed": seed}, as_json, f"{len(folders)} simulated studies in {out}")


def label_maps(path: Path | None) -> tuple[Path, ...]:
    """Return a label map, or those of a folder by name; none without a path.

    Raises:
        RequestError: The folder holds none.
    """
    if path is None or not path.is_dir():
        return () if path is None else (path,)
    found = tuple(sorted(path.glob("*.nii.gz")))
    if not found:
        raise RequestError(f"{path} holds no label map.", "Expected *.nii.gz files.")
    return found


def read_paired(path: Path) -> dict[str, Any]:
    """Read the file of paired targets: name to changed parameters, to a target's name, or to a list of these.

    Raises:
        RequestError: It cannot be read, or is not of that form.
    """
    try:
        targets = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is not readable JSON: {error}.") from error
    if not isinstance(targets, dict) or not all(_is_target(target) for target in targets.values()):
        raise RequestError(
            f"{path} does not hold paired targets.",
            'Example: {"short-te": {"echo_time_ms": 1.4}, "b": "siemens-trio-3t"}',
        )
    for name, target in targets.items():
        if not name or Path(name).name != name:
            raise RequestError(f"'{name}' cannot name a folder.", "Use letters, digits, '-' and '_'.")
        for one in target if isinstance(target, list) else [target]:
            for parameter in one if isinstance(one, dict) else ():
                require_parameter(parameter)
    return targets


def _is_target(target: object) -> bool:
    if isinstance(target, list):
        return bool(target) and all(isinstance(one, (str, dict)) for one in target)
    return isinstance(target, (str, dict))
