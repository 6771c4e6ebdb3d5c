"""The command `stress-test`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.cli.console import emit, progress_shown, table
from cfmri_core.cli.training import EditorFolder, Method
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.evaluation.stress_test import StressTest
    from cfmri_core.evaluation.suite import SuiteResult


def stress_test(
    data: Annotated[Path, typer.Argument(help="Folder of studies with labels.")],
    segmenter: Annotated[
        Path,
        typer.Option(
            help="Model folder, or a TorchScript file (.ts): normalised slices (n,1,size,size) in, logits "
            "(n,3,size,size) of background, fat and fibroglandular tissue out. Such a file is a program: it is run."
        ),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="Result file. Interrupted, the same command goes on from OUT.partial.")
    ] = None,
    image_size: Annotated[
        int, typer.Option(help="Size that a TorchScript file takes if it does not say.", min=8)
    ] = 224,
    parameter: Annotated[
        list[str] | None, typer.Option(help="Only this parameter; repeat for several. Six if absent.")
    ] = None,
    values: Annotated[int, typer.Option(help="Values of each continuous parameter.", min=2)] = 5,
    editor: EditorFolder = None,
    method: Method = None,
    report: Annotated[Path | None, typer.Option(help="HTML report with a curve per parameter.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many patients.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of every edit.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; OUT may follow.")] = False,
) -> None:
    """Test a segmenter: how its Dice moves as each parameter is changed counterfactually, and where it is worst."""
    from cfmri_core.data.studies import list_studies
    from cfmri_core.evaluation.origin import provenance
    from cfmri_core.evaluation.report import write_report
    from cfmri_core.evaluation.stress_report import stress_report
    from cfmri_core.evaluation.stress_test import PARAMETERS, StressTest, values_to_test
    from cfmri_core.evaluation.suite import run_suite
    from cfmri_core.io.atomic import write_text
    from cfmri_core.models.scripted_segmenter import load_any_segmenter
    from cfmri_core.pipeline.method import default_method, load_editor

    chosen, where = method or default_method(editor), resolved_device(device)
    model = load_editor(chosen, editor, where)
    given = values_to_test(model.spec, parameter or PARAMETERS, values)
    studies = list_studies(data)[:limit]
    with progress_shown() as progress, tempfile.TemporaryDirectory() as temporary:
        test = StressTest(load_any_segmenter(segmenter, where, image_size), model, given, chosen, seed, progress)
        partial = out.with_name(out.name + ".partial") if out else Path(temporary) / "partial"
        result = run_suite(test, studies, partial, progress=progress)
    origin = provenance()
    if out:
        write_text(out, result.to_json(origin))
    if report:
        write_report(report, stress_report(result, test, origin))
    _print(result, test, [path for path in (out, report) if path], json, result.to_json(origin))


def _print(result: SuiteResult, test: StressTest, written: list[Path], as_json: bool, text: str) -> None:
    if as_json:
        typer.echo(text)
        return
    (worst,) = test.tables(result.patients)
    lines = [table(worst.texts())]
    if written:
        lines.append(f"Written: {' and '.join(map(str, written))}")
    emit({}, as_json=False, text="\n".join(lines))
