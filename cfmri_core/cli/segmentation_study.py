"""The command `segmentation-study`."""

from __future__ import annotations

from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.cli.console import progress_shown
from cfmri_core.cli.study_result import write_study_result
from cfmri_core.cli.training import EditorFolder, Method, Population, counterfactual_plan
from cfmri_core.errors import RequestError
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.data.studies import Study
    from cfmri_core.training.counterfactuals import CounterfactualPlan
    from cfmri_core.training.segmenter_arms import Recipe


def segmentation_study(
    test: Annotated[Path, typer.Argument(help="Labelled test patients; never trained on.")],
    training: Annotated[
        list[Path], typer.Option(help="Labelled studies of GE and of Siemens scanners to train on; repeat for folders.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the study. The same command goes on where it stopped.")],
    editor: EditorFolder = None,
    population: Population = "other-manufacturer",
    per_volume: Annotated[int, typer.Option(help="Counterfactuals of each volume.", min=1)] = 4,
    method: Method = None,
    directions: Annotated[str, typer.Option(help="Comma-separated.")] = "ge-to-siemens,siemens-to-ge,both",
    arms: Annotated[str | None, typer.Option(help="Comma-separated; all if absent.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each direction and arm.", min=1)] = 5,
    iterations: Annotated[int, typer.Option(help="Optimiser steps, the same in every arm.", min=1)] = 600,
    batch_size: Annotated[int, typer.Option(help="Slices per step.", min=1)] = 16,
    preset: Annotated[str, typer.Option(help="Size of the network: tiny or paper.")] = "tiny",
    part: Annotated[str, typer.Option(help="K/N: only every N-th run from the K-th, to share the work out.")] = "1/1",
    limit: Annotated[int | None, typer.Option(help="Only the first so many test patients.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Compare augmentations: train a segmenter on one vendor or both, test it on each, over several seeds.

    Writes result.json, table.md and cases.csv of all runs finished so far.
    """
    from cfmri_core.data.overlap import require_disjoint
    from cfmri_core.data.studies import list_studies
    from cfmri_core.evaluation import segmentation_study as runner
    from cfmri_core.evaluation.segmentation_tables import FinishedStudy, cases_csv, markdown, summary
    from cfmri_core.io.atomic import write_text
    from cfmri_core.training.augmentation import AUGMENTATIONS, needs_counterfactuals
    from cfmri_core.training.segmenter_arms import ArmTrainer, Recipe

    names = arms.split(",") if arms else list(AUGMENTATIONS)
    for name in names:
        needs_counterfactuals(name)  # refuses an unknown arm before anything is read
    runs = runner.planned_runs(directions.split(","), names, seeds, parse_part(part))
    learners = [study for folder in training for study in list_studies(folder)]
    patients = list_studies(test)[:limit]
    require_disjoint(learners, patients)
    plan = counterfactual_plan(editor, population, per_volume, method, 0, output / "counterfactuals", device)
    recipe = Recipe(preset=preset, iterations=iterations, batch_size=batch_size, device=resolved_device(device))
    settings, of_editor = _settings(recipe, learners, patients), output / "counterfactual-settings.json"
    runner.require_same_settings(output / "settings.json", settings)
    if any(needs_counterfactuals(run.arm) for run in runs):  # the other runs stay good with another editor
        runner.require_same_settings(of_editor, _editor_settings(plan))
    with progress_shown() as progress:
        if any(not (run.folder(output) / "result.json").exists() for run in runs):
            scans = runner.load_test_scans(patients, progress)
            trainer = ArmTrainer(learners, runner.DIRECTIONS["both"], plan, recipe, progress)
            runner.complete_runs(runs, scans, trainer, output, progress)
    made_with = loads(of_editor.read_text(encoding="utf-8")) if of_editor.exists() else {}
    found = FinishedStudy(runner.finished_runs(output))
    write_text(output / "cases.csv", cases_csv(found))
    write_study_result(output, "augmentation", {**settings, **made_with}, summary(found), markdown(found), as_json)


def _settings(recipe: Recipe, training: list[Study], test: list[Study]) -> dict[str, Any]:
    """What decides the result of every arm; where the computation runs does not."""
    from cfmri_core.data.overlap import data_digest

    made = {name: getattr(recipe, name) for name in ("preset", "iterations", "batch_size", "validation_share")}
    counts = {"training_studies": len(training), "test_studies": len(test)}
    return {**made, **counts, "training_sha256": data_digest(training), "test_sha256": data_digest(test)}


def _editor_settings(plan: CounterfactualPlan) -> dict[str, Any]:
    """What decides the result of the arms with counterfactuals besides."""
    return {
        "editor_sha256": plan.editor.sha256,
        "population": plan.population.name,
        "counterfactuals_per_volume": plan.per_volume,
        "method": plan.method,
    }


def parse_part(text: str) -> tuple[int, int]:
    """Return the part of a study that an option names.

    Raises:
        RequestError: It is not of the form K/N.
    """
    number, slash, parts = text.partition("/")
    if not (slash and number.isdigit() and parts.isdigit()):
        raise RequestError(f"--part '{text}' is not a part.", "Give K/N, for example 1/2 and 2/2 in two processes.")
    return int(number), int(parts)
