"""The command `active-learning-study`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.cli.console import progress_shown
from cfmri_core.cli.segmentation_study import parse_part
from cfmri_core.cli.study_result import write_study_result
from cfmri_core.cli.training import EditorFolder, Method
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.data.studies import Study


def active_learning_study(
    pool: Annotated[list[Path], typer.Argument(help="Labelled studies to choose from; several folders make one pool.")],
    test: Annotated[Path, typer.Option(help="Labelled test patients; never chosen.")],
    output: Annotated[Path, typer.Option(help="Folder of the study. The same command goes on where it stopped.")],
    strategies: Annotated[str | None, typer.Option(help="Comma-separated; all if absent.")] = None,
    seeds: Annotated[int, typer.Option(help="Campaigns of each strategy.", min=1)] = 5,
    start: Annotated[int, typer.Option(help="Labelled cases to begin with.", min=1)] = 4,
    step: Annotated[int, typer.Option(help="Labels between two trainings.", min=1)] = 4,
    most: Annotated[int, typer.Option(help="Labels at the end of a campaign.", min=1)] = 24,
    augmentation: Annotated[str, typer.Option(help="As in 'cfmri train segmenter'.")] = "none",
    iterations: Annotated[int, typer.Option(help="Optimiser steps of every training.", min=1)] = 300,
    batch_size: Annotated[int, typer.Option(help="Slices per step.", min=1)] = 8,
    preset: Annotated[str, typer.Option(help="Size of the network: tiny or paper.")] = "tiny",
    editor: EditorFolder = None,
    method: Method = None,
    part: Annotated[str, typer.Option(help="K/N: only every N-th seed from the K-th, to share the work out.")] = "1/1",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Compare strategies of active learning: Dice on test patients against the number of labelled cases.

    Writes result.json and table.md of all campaigns finished so far.
    """
    from cfmri_core.active_learning.next_case import STRATEGIES
    from cfmri_core.data.overlap import data_digest, require_disjoint
    from cfmri_core.data.studies import list_studies
    from cfmri_core.evaluation import active_learning_study as runner
    from cfmri_core.evaluation.active_learning_tables import FinishedCampaigns, summary
    from cfmri_core.evaluation.segmentation_study import load_test_scans, require_same_settings
    from cfmri_core.evaluation.summary_table import markdown
    from cfmri_core.pipeline.method import default_method, load_editor
    from cfmri_core.training.augmentation import needs_counterfactuals
    from cfmri_core.training.labelling_pool import LabellingPool, PoolRecipe

    needs_counterfactuals(augmentation)  # refuses an unknown one before anything is read
    campaigns = runner.planned_campaigns(strategies.split(",") if strategies else STRATEGIES, seeds, parse_part(part))
    budget = runner.Budget(start=start, step=step, most=most)
    studies, patients = _pooled(pool), list_studies(test)
    require_disjoint(studies, patients)
    chosen = resolved_device(device)
    recipe = PoolRecipe(
        augmentation=augmentation, preset=preset, iterations=iterations, batch_size=batch_size, device=chosen
    )
    method = method or default_method(editor)
    model = load_editor(method, editor, chosen)
    made = {name: value for name, value in vars(recipe).items() if name != "device"}
    settings = {
        **made, **vars(budget), "editor_sha256": model.sha256, "method": method, "pool_studies": len(studies),
        "test_studies": len(patients), "pool_sha256": data_digest(studies), "test_sha256": data_digest(patients),
    }  # fmt: skip
    require_same_settings(output / "settings.json", settings)
    with progress_shown() as progress:
        if not all(campaign.path(output).exists() for campaign in campaigns):
            scans = load_test_scans(patients, progress)
            cases = LabellingPool(studies, model, method, output / "counterfactuals", recipe, progress)
            runner.complete_campaigns(campaigns, cases, scans, budget, output, progress)
    found = summary(FinishedCampaigns(runner.finished_campaigns(output)))
    write_study_result(output, "active-learning", settings, found, markdown(found["tables"]), as_json)


def _pooled(folders: list[Path]) -> list[Study]:
    """Return the studies of several folders; where there are several, each study is named with its folder."""
    from cfmri_core.data.studies import list_studies

    if len(folders) == 1:
        return list_studies(folders[0])
    return [
        replace(study, subject_id=f"{folder.name}/{study.subject_id}")
        for folder in folders
        for study in list_studies(folder)
    ]
