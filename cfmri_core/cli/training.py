"""The commands `train editor`, `train segmenter` and so on: one per kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.cli.console import emit, progress_shown, warn
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.training.counterfactuals import CounterfactualPlan

app = typer.Typer(help="Train a model on a folder of studies.", no_args_is_help=True, rich_markup_mode=None)

Data = Annotated[Path, typer.Argument(help="Folder of studies, e.g. what 'cfmri simulate' wrote.")]
Output = Annotated[Path, typer.Option(help="Folder that receives model, checkpoint and TensorBoard events.")]
Preset = Annotated[str, typer.Option(help="Size of a new network: tiny or paper.")]
JudgePreset = Annotated[
    str,
    typer.Option(
        help="Size of a new network: tiny, paper, fine (segmenter), or scoring (another architecture, for evaluations)."
    ),
]
Iterations = Annotated[int | None, typer.Option(help="Optimiser steps; the model's own default if absent.", min=1)]
BatchSize = Annotated[int | None, typer.Option(help="Slices per step; the model's own default if absent.", min=1)]
Seed = Annotated[int, typer.Option(help="Of split, weights, batches and noise.")]
StartFrom = Annotated[Path | None, typer.Option(help="Model folder to go on from, instead of a new network.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EditorFolder = Annotated[
    Path | None, typer.Option(help="Editor that makes counterfactuals, instead of the shipped one.")
]
Population = Annotated[
    str,
    typer.Option(
        help="Where their targets come from: duke (the published cells), other-manufacturer (those of makers other "
        "than the own), a manufacturer, or a JSON file with a list of protocols."
    ),
]
PerVolume = Annotated[int, typer.Option(help="Counterfactuals of each volume.", min=1)]
Method = Annotated[str | None, typer.Option(help="How counterfactuals are made; see 'cfmri edit'.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]


@app.command("editor")
def train_editor_command(
    data: Data,
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the editor on unpaired scans; paired renderings in DATA are never read."""
    from cfmri_core.training.editor import train_editor

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    _train(train_editor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("direct-editor")
def train_direct_editor_command(
    data: Annotated[Path, typer.Argument(help="Studies that 'cfmri simulate' wrote with --paired.")],
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the editor of method fast on simulated pairs: the same subject under several acquisitions."""
    from cfmri_core.training.direct_editor import train_direct_editor

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    _train(train_direct_editor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("iap-predictor")
def train_iap_predictor_command(
    data: Data,
    output: Output,
    preset: JudgePreset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the predictor of acquisition parameters."""
    from cfmri_core.training.iap_predictor import train_iap_predictor

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    _train(train_iap_predictor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("segmenter")
def train_segmenter_command(
    data: Data,
    output: Output,
    preset: JudgePreset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    augmentation: Annotated[
        str,
        typer.Option(
            help="none, classical, contrast-randomisation, counterfactual (each scan as other scanners would have made "
            "it) or counterfactual+classical."
        ),
    ] = "none",
    editor: EditorFolder = None,
    population: Population = "duke",
    per_volume: PerVolume = 2,
    method: Method = None,
    cache: Annotated[Path | None, typer.Option(help="Folder that keeps the counterfactuals for other runs.")] = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the tissue segmenter on scans with labels."""
    from cfmri_core.training.augmentation import needs_counterfactuals
    from cfmri_core.training.segmenter import train_segmenter

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    if needs_counterfactuals(augmentation):
        options["counterfactuals"] = counterfactual_plan(editor, population, per_volume, method, seed, cache, device)
    options["augmentation"] = augmentation
    _train(train_segmenter, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("lesion-editor")
def train_lesion_editor_command(
    data: Annotated[Path, typer.Argument(help="Studies with lesion masks, e.g. simulated with --lesions.")],
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the editor of lesions, for the methods mededit, repaint and sdedit."""
    from cfmri_core.training.lesion_editor import train_lesion_editor

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    _train(train_lesion_editor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("palette-editor")
def train_palette_editor_command(
    data: Annotated[Path, typer.Argument(help="Studies with lesion masks, e.g. simulated with --lesions.")],
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the editor of lesions for the method palette, which fills a region at once."""
    from cfmri_core.models.lesion_editor import PaletteEditor
    from cfmri_core.training.lesion_editor import train_lesion_editor

    options = _given(kind=PaletteEditor, iterations=iterations, batch_size=batch_size, start_from=start_from)
    _train(train_lesion_editor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options)


@app.command("lesion-segmenter")
def train_lesion_segmenter_command(
    data: Annotated[Path, typer.Argument(help="Studies with lesion masks; other patients than the editors'.")],
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the segmenter that judges edits of lesions."""
    from cfmri_core.training.lesion_segmenter import train_lesion_segmenter

    options = _given(iterations=iterations, batch_size=batch_size)
    _train(
        train_lesion_segmenter, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options
    )


@app.command("structure-editor")
def train_structure_editor_command(
    data: Data,
    output: Output,
    preset: Preset = "tiny",
    iterations: Iterations = None,
    batch_size: BatchSize = None,
    seed: Seed = 0,
    start_from: StartFrom = None,
    segmenter: Annotated[
        Path | None,
        typer.Option(help="Segmenter that finds the breast and leads; if absent one is trained on the labels in DATA."),
    ] = None,
    reader: Annotated[
        Path | None, typer.Option(help="Finer segmenter that measures the share; if absent one is trained likewise.")
    ] = None,
    judge: Annotated[
        list[Path] | None,
        typer.Option(help="Further segmenters like the first, to be tuned against; may be repeated."),
    ] = None,
    resume: Resume = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train the structure editor: a diffusion model that knows the share, then its counterfactual fine-tuning."""
    from cfmri_core.training.structure_editor import train_structure_editor

    options = _given(iterations=iterations, batch_size=batch_size, start_from=start_from)
    options |= _given(segmenter=segmenter, reader=reader, judges=judge)
    _train(
        train_structure_editor, data, output, json, preset=preset, seed=seed, resume=resume, device=device, **options
    )


def counterfactual_plan(
    editor: Path | None,
    population: str,
    per_volume: int,
    method: str | None,
    seed: int,
    cache: Path | None,
    device: str,
) -> CounterfactualPlan:
    """Return the plan that the options of a command mean.

    Raises:
        RequestError: The population or the method is not known.
        CheckpointError: There is no editor.
    """
    from cfmri_core.pipeline.method import default_method, load_editor
    from cfmri_core.simulation.population import read_population
    from cfmri_core.training.counterfactuals import CounterfactualPlan

    method = method or default_method(editor)
    return CounterfactualPlan(
        editor=load_editor(method, editor, resolved_device(device)),
        population=read_population(population),
        per_volume=per_volume,
        method=method,
        seed=seed,
        cache=cache,
    )


def _train(function: Any, data: Path, output: Path, as_json: bool, device: str, **options: Any) -> None:
    from cfmri_core.data.studies import survey
    from cfmri_core.training.parallel import place

    with place(resolved_device(device), output) as here:
        if not here.is_first:
            function(data, here.output, device=here.device, **options)
            return
        for line in survey(data).lines():
            warn(line)
        with progress_shown() as progress:
            folder = function(data, output, device=here.device, progress=progress, **options)
        emit({"model": folder}, as_json, f"Model written: {folder}")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
