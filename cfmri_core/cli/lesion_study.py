"""The command `lesion-study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.cli.console import progress_shown
from cfmri_core.cli.segmentation_study import parse_part
from cfmri_core.cli.study_result import write_study_result
from cfmri_core.errors import CheckpointError
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.training.inserted_lesions import InsertionPlan
    from cfmri_core.training.lesion_arms import LesionRecipe


def lesion_study(
    real: Annotated[Path, typer.Argument(help="Studies with lesion masks; each seed draws some of them.")],
    healthy: Annotated[Path, typer.Option(help="Studies of other patients without lesion.")],
    test: Annotated[Path, typer.Option(help="Test patients with lesion masks; never trained on.")],
    output: Annotated[Path, typer.Option(help="Folder of the study. The same command goes on where it stopped.")],
    arms: Annotated[str | None, typer.Option(help="Comma-separated; all if absent.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each arm.", min=1)] = 5,
    lesions: Annotated[int, typer.Option(help="Scans with a real lesion in each training.", min=1)] = 10,
    inserted_per_scan: Annotated[int, typer.Option(help="Insertions into each scan without lesion.", min=1)] = 1,
    iterations: Annotated[int, typer.Option(help="Optimiser steps, the same in every arm.", min=1)] = 600,
    batch_size: Annotated[int, typer.Option(help="Patches per step.", min=1)] = 16,
    preset: Annotated[str, typer.Option(help="Size of the network: tiny or paper.")] = "tiny",
    method: Annotated[str, typer.Option(help="How lesions are inserted; see 'cfmri lesion'.")] = "mededit",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the method's own if absent.", min=1)] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of models, instead of the shipped ones.")] = None,
    part: Annotated[str, typer.Option(help="K/N: only every N-th seed from the K-th, to share the work out.")] = "1/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Train lesion segmenters on few real lesions, with and without inserted ones, and test them on other patients.

    The editor that inserts has learned from other lesions than these: what it learned elsewhere is what is brought in.
    Writes result.json and table.md of all runs finished so far.
    """
    from cfmri_core.data.overlap import data_digest, require_disjoint
    from cfmri_core.data.studies import list_studies
    from cfmri_core.evaluation import lesion_study as runner
    from cfmri_core.evaluation.lesion_study_tables import FinishedLesionStudy, summary
    from cfmri_core.evaluation.segmentation_study import require_same_settings
    from cfmri_core.evaluation.summary_table import markdown
    from cfmri_core.training.lesion_arms import LESION_ARMS, LesionArmTrainer, LesionRecipe, require_lesion_arm

    names = arms.split(",") if arms else list(LESION_ARMS)
    for name in names:
        require_lesion_arm(name)
    runs = runner.planned_runs(names, seeds, parse_part(part))
    learners, free, patients = list_studies(real), list_studies(healthy), list_studies(test)
    require_disjoint([*learners, *free], patients)
    chosen = resolved_device(device)
    recipe = LesionRecipe(
        lesions=lesions, preset=preset, iterations=iterations, batch_size=batch_size, device=chosen
    )  # fmt: skip
    plan = _plan(method, steps, inserted_per_scan, model, output / "inserted", chosen)
    counts = {"real_studies": len(learners), "healthy_studies": len(free), "test_studies": len(patients)}
    digests = {"training_sha256": data_digest([*learners, *free]), "test_sha256": data_digest(patients)}
    settings = {**_settings(recipe, plan), **counts, **digests}
    require_same_settings(output / "settings.json", settings)
    with progress_shown() as progress:
        if not all((run.folder(output) / "result.json").exists() for run in runs):
            scans = runner.load_lesion_test_scans(patients, progress)
            trainer = LesionArmTrainer(learners, free, plan, recipe, progress)
            runner.complete_runs(runs, scans, trainer, output, progress)
    found = summary(FinishedLesionStudy(runner.finished_runs(output)))
    write_study_result(output, "lesion-study", settings, found, markdown(found["tables"]), as_json)


def _plan(
    method: str, steps: int | None, per_scan: int, model: Path | None, cache: Path, device: str
) -> InsertionPlan:  # fmt: skip
    from cfmri_core.pipeline.lesion_method import load_lesion_editor
    from cfmri_core.pipeline.lesion_region import tissue_segmenter
    from cfmri_core.training.inserted_lesions import InsertionPlan

    editor, tissue = load_lesion_editor(method, model, device), tissue_segmenter(model, device)
    if tissue is None:
        raise CheckpointError("There is no tissue segmenter to find places for lesions.", "See 'cfmri doctor'.")
    return InsertionPlan(editor=editor, tissue=tissue, per_scan=per_scan, method=method, steps=steps, cache=cache)


def _settings(recipe: LesionRecipe, plan: InsertionPlan) -> dict[str, Any]:
    """What decides the result of the arms; where the computation runs does not."""
    return {
        **{name: value for name, value in vars(recipe).items() if name != "device"},
        "inserted_per_scan": plan.per_scan,
        "method": plan.method,
        "steps": plan.request.steps_used,
        "editor_sha256": plan.editor.sha256,
        "tissue_segmenter_sha256": plan.tissue.sha256,
    }
