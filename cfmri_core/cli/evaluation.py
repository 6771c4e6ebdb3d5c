"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfmri_core.cli.console import emit, formatted, progress_shown, table
from cfmri_core.errors import RequestError
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.evaluation.suite import Suite, SuiteResult


SUITES = ("edit", "iap", "segmentation", "lesion", "structure", "trust")


def evaluate(
    data: Annotated[
        Path, typer.Argument(help="Folder of studies; for suites edit and structure simulated with --paired.")
    ],
    suite: Annotated[str, typer.Option(help=f"One of: {', '.join(SUITES)}.")],
    json: Annotated[Path, typer.Option(help="Result file. Interrupted, the same command goes on from OUT.partial.")],
    report: Annotated[Path | None, typer.Option(help="HTML report with pictures.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many patients.", min=1)] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Suites edit, trust, lesion: only this method; may be repeated.")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help='Only this kind of case, e.g. "cross-vendor" (edit) or "20 %" (structure); may be repeated.'),
    ] = None,
    slices: Annotated[
        int | None, typer.Option(help="Suites edit, structure, trust: slices edited of a volume; default all.", min=1)
    ] = None,
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

    options = {"edits": method or (), "kinds": case or (), "slices": slices, "seed": seed}
    chosen = _suite(suite, model, options, resolved_device(device))
    studies = list_studies(data)[:limit]
    with progress_shown() as progress:
        result = run_suite(chosen, studies, json.with_name(json.name + ".partial"), progress=progress)
    origin = provenance()
    write_text(json, result.to_json(origin))
    if report:
        write_report(report, suite_report(result, origin))
    emit({}, as_json=False, text=_text(result, json, report))


def evaluation_page(
    results: Annotated[Path, typer.Argument(help="Folder of result files.")],
    out: Annotated[Path, typer.Argument(help="Markdown file to write.")],
) -> None:
    """Write the tables of all result files as one page, the published figures beside them."""
    from cfmri_core.evaluation.summary import evaluation_page as composed
    from cfmri_core.io.atomic import write_text

    write_text(out, composed(results))
    emit({}, as_json=False, text=f"Written: {out}")


def _suite(name: str, model: Path | None, options: dict[str, Any], device: str) -> Suite:
    from cfmri_core.models.model_folder import locate_model

    if name == "structure":
        return _structure_suite(model, options, device)
    if name == "trust":
        return _trust_suite(model, options, device)
    if name == "lesion":
        return _lesion_suite(model, options, device)
    kinds = {"edit": "editor", "iap": "iap_predictor", "segmentation": "segmenter"}
    if name not in kinds:
        raise RequestError(f"Suite '{name}' is not known.", f"Use one of: {', '.join(SUITES)}.")
    if name == "edit":
        return _edit_suite(model, options, device)
    folder = locate_model(kinds[name], model)
    if name == "iap":
        from cfmri_core.evaluation.iap_suite import IapSuite
        from cfmri_core.models.iap_predictor import IapPredictor

        return IapSuite(IapPredictor.load(folder, device))
    from cfmri_core.evaluation.segmentation_suite import SegmentationSuite
    from cfmri_core.models.segmenter import Segmenter

    return SegmentationSuite(Segmenter.load(folder, device))


def _structure_suite(model: Path | None, options: dict[str, Any], device: str) -> Suite:
    from cfmri_core.evaluation.structure_suite import StructureSuite, scoring_segmenter
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.models.structure_editor import StructureEditor

    editor = StructureEditor.load(locate_model("structure_editor", model), device)
    chosen = {name: options[name] for name in ("kinds", "slices", "seed")}
    return StructureSuite(editor, scoring_segmenter(device), **chosen)


def _trust_suite(model: Path | None, options: dict[str, Any], device: str) -> Suite:
    from cfmri_core.evaluation.trust_suite import TrustSuite
    from cfmri_core.pipeline.method import default_method, load_editor
    from cfmri_core.pipeline.trusted_edit import editor_folder, load_trust

    method = next(iter(options["edits"]), default_method(model))
    editor = load_editor(method, model, device)
    trust = load_trust(editor, editor_folder(method, model), model, device)
    return TrustSuite(trust, editor, method=method, seed=options["seed"], slices=options["slices"])


def _lesion_suite(model: Path | None, options: dict[str, Any], device: str) -> Suite:
    from cfmri_core.evaluation.fooling import scoring_predictor
    from cfmri_core.evaluation.lesion_suite import LesionSuite
    from cfmri_core.models.lesion_segmenter import LesionSegmenter
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.pipeline.lesion_method import LESION_METHODS, lesion_method, load_lesion_editor
    from cfmri_core.pipeline.lesion_region import tissue_segmenter

    methods = tuple(options["edits"]) or tuple(LESION_METHODS)
    return LesionSuite(
        {lesion_method(method).model: load_lesion_editor(method, model, device) for method in methods},
        LesionSegmenter.load(locate_model("lesion_segmenter", model), device),
        scoring_predictor(device),
        tissue_segmenter(model, device),
        methods=methods,
        seed=options["seed"],
    )


def _edit_suite(model: Path | None, options: dict[str, Any], device: str) -> Suite:
    from cfmri_core.errors import CheckpointError
    from cfmri_core.evaluation.edit_suite import EditSuite, load_editors
    from cfmri_core.evaluation.fooling import scoring_predictor

    try:
        scorer = scoring_predictor(device)
    except CheckpointError:
        scorer = None  # the suite then says nothing about how far the result is taken for what was asked for
    return EditSuite(load_editors(options["edits"], model, device), scorer=scorer, **options)


def _text(result: SuiteResult, json: Path, report: Path | None) -> str:
    own = [f"{one.name}\n{table(one.texts())}\n{one.caption}" for one in result.tables]
    written = f"Written: {json}" + (f" and {report}" if report else "")
    means = [_means(result)] if result.tests or not own else []
    return "\n\n".join([*means, *own, written])


def _means(result: SuiteResult) -> str:
    rows = [("cases", "arm", "metric", "mean", "95 % interval", "patients")]
    for kind, arms in result.aggregate.items():
        for arm, metrics in arms.items():
            for metric, value in metrics.items():
                limits = f"[{formatted(value.low)}, {formatted(value.high)}]"
                rows.append((kind, arm, metric, formatted(value.mean), limits, str(value.patients)))
    return table(rows)
