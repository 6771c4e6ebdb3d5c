"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.cli.console import emit, formatted, progress_shown, table
from cfmri_core.cli.device import resolved_device
from cfmri_core.errors import RequestError

if TYPE_CHECKING:
    from cfmri_core.evaluation.suite import Suite, SuiteResult


SUITES = ("edit", "iap", "segmentation")
_LATER = ("lesion", "structure")


def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder of studies; for suite edit simulated with --paired.")],
    suite: Annotated[str, typer.Option(help=f"One of: {', '.join(SUITES)}.")],
    json: Annotated[Path, typer.Option(help="Result file. Interrupted, the same command goes on from OUT.partial.")],
    report: Annotated[Path | None, typer.Option(help="HTML report with pictures.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many patients.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of every edit.")] = 0,
    model: Annotated[Path | None, typer.Option(help="Model folder, instead of the shipped one.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Evaluate a model on simulated patients, patient by patient, with confidence intervals."""
    from cfmri_core.data.studies import list_studies
    from cfmri_core.evaluation.origin import provenance
    from cfmri_core.evaluation.report import write_report
    from cfmri_core.evaluation.suite import run_suite
    from cfmri_core.evaluation.suite_report import suite_report
    from cfmri_core.io.atomic import write_text

    chosen = _suite(suite, model, seed, resolved_device(device))
    studies = list_studies(data)[:limit]
    with progress_shown() as progress:
        result = run_suite(chosen, studies, json.with_name(json.name + ".partial"), progress=progress)
    origin = provenance()
    write_text(json, result.to_json(origin))
    if report:
        write_report(report, suite_report(result, origin))
    emit({}, as_json=False, text=_text(result, json, report))


def _suite(name: str, model: Path | None, seed: int, device: str) -> Suite:
    from cfmri_core.models.model_folder import locate_model

    if name in _LATER:
        raise RequestError(f"Suite '{name}' is not in this version.", f"Use one of: {', '.join(SUITES)}.")
    kinds = {"edit": "editor", "iap": "iap_predictor", "segmentation": "segmenter"}
    if name not in kinds:
        raise RequestError(f"Suite '{name}' is not known.", f"Use one of: {', '.join(SUITES)}.")
    folder = locate_model(kinds[name], model)
    if name == "edit":
        from cfmri_core.evaluation.edit_suite import EditSuite
        from cfmri_core.models.editor import Editor

        return EditSuite(Editor.load(folder, device), seed=seed)
    if name == "iap":
        from cfmri_core.evaluation.iap_suite import IapSuite
        from cfmri_core.models.iap_predictor import IapPredictor

        return IapSuite(IapPredictor.load(folder, device))
    from cfmri_core.evaluation.segmentation_suite import SegmentationSuite
    from cfmri_core.models.segmenter import Segmenter

    return SegmentationSuite(Segmenter.load(folder, device))


def _text(result: SuiteResult, json: Path, report: Path | None) -> str:
    rows = [("arm", "metric", "mean", "95 % interval", "patients")]
    for arm, metrics in result.aggregate.items():
        for metric, value in metrics.items():
            limits = f"[{formatted(value.low)}, {formatted(value.high)}]"
            rows.append((arm, metric, formatted(value.mean), limits, str(value.patients)))
    written = f"Written: {json}" + (f" and {report}" if report else "")
    return f"{table(rows)}\n{written}"
