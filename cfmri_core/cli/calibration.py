"""The commands `calibrate support`, `calibrate edits` and `calibrate scanners`."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import emit, formatted, progress_shown, table
from cfmri_core.models.device import resolved_device

app = typer.Typer(
    help="Learn when to believe an edit, and what your scanners are like; kept beside the models, or a copy of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Models = Annotated[Path, typer.Option(help="Folder that holds the model folders; they receive the statistics.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many subjects.", min=1)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


@app.command("support")
def calibrate_support_command(
    training: Annotated[Path, typer.Argument(help="Studies that the models were trained on.")],
    held_back: Annotated[Path, typer.Argument(help="Studies that they were not trained on, and that judge nothing.")],
    model: Models,
    limit: Limit = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Learn which parameters and images the models were trained on, and how far the predictor errs."""
    from cfmri_core.data.studies import list_studies, load_slices
    from cfmri_core.errors import CheckpointError
    from cfmri_core.evaluation.calibration import calibrate_support
    from cfmri_core.models.iap_predictor import IapPredictor
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.pipeline.method import METHODS, load_editor

    folder = locate_model("iap_predictor", model)
    predictor = IapPredictor.load(folder, resolved_device(device))
    editors = []
    for method in {one.model: name for name, one in METHODS.items()}.values():
        try:
            editors.append((load_editor(method, model), locate_model(METHODS[method].model, model)))
        except CheckpointError:
            continue
    with progress_shown() as progress:
        sets = [
            load_slices(
                list_studies(path)[:limit],
                predictor.image_size,
                keeps_aspect=predictor.config.keeps_aspect,
                progress=progress,
            )
            for path in (training, held_back)
        ]
    learned = calibrate_support(sets[0], sets[1], editors, predictor, folder)
    rows = [("what", "value"), *((name, formatted(value)) for name, value in learned.items())]
    emit(learned, json, table(rows))


@app.command("edits")
def calibrate_edits_command(
    data: Annotated[Path, typer.Argument(help="Validation studies simulated with --paired; never evaluated on.")],
    model: Models,
    method: Annotated[str | None, typer.Option(help="Method of the edits; see 'cfmri edit'.")] = None,
    replays: Annotated[int | None, typer.Option(help="Seeds per edit; default 4, and 1 for fast.", min=1)] = None,
    slices: Annotated[int, typer.Option(help="Slices of each volume.", min=1)] = 8,
    limit: Limit = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Learn how far edits lie from the paired truth, and what the truth does to the anatomy measures."""
    from cfmri_core.data.studies import list_studies
    from cfmri_core.errors import CheckpointError
    from cfmri_core.evaluation.calibration import EditPlan, calibrate_edits
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.models.segmenter import Segmenter
    from cfmri_core.pipeline.method import METHODS, default_method, load_editor

    method = method or default_method(model)
    editor = load_editor(method, model, resolved_device(device))
    folder = locate_model(METHODS[method].model, model)
    try:
        segmenter = Segmenter.load(locate_model("segmenter", model), resolved_device(device))
    except CheckpointError:
        segmenter = None  # the tissue limit then stays the default
    # A method without noise gives the same result under every seed.
    plan = EditPlan(method=method, replays=replays or (4 if METHODS[method].depth else 1), slices=slices)
    studies = list_studies(data)[:limit]
    with progress_shown() as progress:
        uncertainty, limits = calibrate_edits(studies, editor, folder, plan, segmenter=segmenter, progress=progress)
    learned = {"uncertainty": vars(uncertainty), "anatomy": vars(limits)}
    rows = [("what", "value"), *((name, formatted(value)) for one in learned.values() for name, value in one.items())]
    emit(learned, json, table(rows))


@app.command("scanners")
def calibrate_scanners_command(
    data: Annotated[Path, typer.Argument(help="Scans of your scanners, two models or more; no labels, no pairs.")],
    output: Annotated[Path, typer.Option(help="New folder: a copy of the models, with what was learned.")],
    model: Annotated[Path | None, typer.Option(help="Folder that holds the models; those shipped if absent.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many scans.", min=1)] = None,
    simulated: Annotated[int, typer.Option(help="Simulated scans to compare with.", min=10)] = 120,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Learn from your own scans how much fat each of your scanners leaves, for edits with method fast.

    One number for each scanner model, in place of any learned before. Scans that cannot be read, name no model, do not
    suppress fat or show no breast are left out. Use the copy as --model, or as CFMRI_MODELS.
    """
    from cfmri_core.data.studies import list_studies
    from cfmri_core.io.atomic import require_replaceable
    from cfmri_core.models.direct_editor import DirectEditor
    from cfmri_core.models.model_folder import copied_models, locate_model
    from cfmri_core.models.segmenter import Segmenter
    from cfmri_core.pipeline.scanner_fit import fit_scanners, simulated_contrasts, site_contrasts

    require_replaceable(output)
    on = resolved_device(device)
    editor = DirectEditor.load(locate_model("direct_editor", model), on)
    segmenter = Segmenter.load(locate_model("segmenter", model), on)
    with progress_shown() as progress:
        site = site_contrasts(list_studies(data)[:limit], editor, segmenter, progress)
        expected = simulated_contrasts(site.parameters, simulated, editor, segmenter, progress)
    fitted = fit_scanners(site.contrasts, expected)
    with copied_models(model, output) as copy:
        fitted.write(copy / "direct_editor", editor.sha256)
    rows = [("scanner model", "patients", "fat left, times what was assumed")]
    rows += [(name, str(count), f"{exp(fitted.log_fat_left[name]):.2f}") for name, count in fitted.patients.items()]
    rows += [(f"left out: {reason}", str(count), "") for reason, count in site.left_out.items()]
    emit({**vars(fitted), "left_out": site.left_out}, json, table(rows))
