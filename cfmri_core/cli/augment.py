"""The command `augment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import emit, progress_shown
from cfmri_core.cli.training import EditorFolder, Method, PerVolume, Population, counterfactual_plan


def augment(
    data: Annotated[Path, typer.Argument(help="Folder of studies; those without labels are left out.")],
    out: Annotated[Path, typer.Argument(help="New folder. The same command goes on where it stopped.")],
    per_volume: PerVolume = 2,
    editor: EditorFolder = None,
    population: Population = "duke",
    method: Method = None,
    seed: Annotated[int, typer.Option(help="Of targets, noise and folds.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many studies.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Write image and label pairs for training elsewhere: each scan, and as other scanners would have shown it.

    OUT serves MONAI (datalist.json, with folds by patient) and nnU-Net v2 (imagesTr, labelsTr, dataset.json;
    copy splits_final.json to the preprocessed folder, so that no counterfactual validates).
    """
    from cfmri_core.data.studies import list_studies
    from cfmri_core.training.augmented_dataset import write_augmented_dataset

    studies = list_studies(data)[:limit]
    plan = counterfactual_plan(editor, population, per_volume, method, seed, None, device)
    with progress_shown() as progress:
        cases = write_augmented_dataset(studies, out, plan, progress)
    synthetic = sum(case.synthetic for case in cases)
    summary = {"output": out, "scans": len(cases) - synthetic, "counterfactuals": synthetic}
    text = (
        f"{len(cases) - synthetic} scans and {synthetic} SYNTHETIC counterfactuals, not for diagnosis. Written: {out}"
    )
    emit(summary, as_json, text)
