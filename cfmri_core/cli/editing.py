"""Commands that run a network on one volume: `predict-iap`, `edit`, `segment`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.acquisition import PARAMETERS, parse_assignments
from cfmri_core.cli.console import choice, emit, formatted, note, progress_shown, table, warn
from cfmri_core.errors import RequestError
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.pipeline.counterfactual import Counterfactual

Input = Annotated[Path, typer.Argument(help="Folder with one DICOM series, or .nii/.nii.gz with a BIDS sidecar.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Model = Annotated[Path | None, typer.Option(help="Model folder, instead of the shipped one.")]
OnRefusal = Annotated[
    str, typer.Option(help="If the check fails: warn and mark the result, or stop and write nothing.")
]


def predict_iap(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder, or NIfTI.")],
    device: Device = "auto",
    model: Model = None,
    json: Json = False,
) -> None:
    """Predict how a volume was acquired, beside what its header says."""
    from cfmri_core.io.scan import read_scan
    from cfmri_core.models.iap_predictor import IapPredictor
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.pipeline.prediction import predict_acquisition

    scan = read_scan(input_)
    predictor = IapPredictor.load(locate_model("iap_predictor", model), resolved_device(device))
    predicted = predict_acquisition(scan.volume, predictor)
    header = scan.acquisition.parameters.as_dict()
    rows = [("parameter", "header", "predicted", "probability or error")]
    for parameter in PARAMETERS:
        prediction = predicted.get(parameter.name, {})
        rows.append((parameter.name, formatted(header[parameter.name]), *_prediction_cells(prediction)))
    emit({"predicted": predicted, "header": header}, json, table(rows))


def edit(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder, or NIfTI with sidecar.")],
    output: Annotated[Path, typer.Argument(help="NAME.nii.gz, or a folder that receives a DICOM series.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change one parameter.")] = None,
    like: Annotated[Path | None, typer.Option(help="Take all parameters of this other scan.")] = None,
    preset: Annotated[str | None, typer.Option(help="Take all parameters of this named protocol.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="fast (default): learned from simulated pairs; inversion: from scans; paper: as published."),
    ] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance; the method's own if absent.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the method's own if absent.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    source_noise: Annotated[
        str | None,
        typer.Option(help="fast: scale to the requested protocol's (default), keep, renew at that level, or remove."),
    ] = None,
    slices: Annotated[str | None, typer.Option(help="K for one slice, A:B for slices A to B-1.")] = None,
    check: Annotated[
        bool, typer.Option(help="Judge source, request and result; see 'support' in the evidence.")
    ] = True,
    on_refusal: OnRefusal = "warn",
    uncertainty: Annotated[
        int,
        typer.Option(metavar="K", help="Replay the edit with K seeds and write a map of its uncertainty beside it."),
    ] = 0,
    device: Device = "auto",
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON only.")] = False,
) -> None:
    """Make the volume as it would have looked under other acquisition parameters."""
    from cfmri_core.io.scan import read_scan, write_counterfactual
    from cfmri_core.pipeline.method import EditRequest, default_method, load_editor, method_for
    from cfmri_core.pipeline.trusted_edit import Caution, editor_folder, load_trust, trusted_edit

    method = method or method_for(steps, guidance_scale, default_method(model))
    caution = Caution(check=check, on_refusal=on_refusal, replays=uncertainty)
    request = EditRequest(
        changes=_changes(set_ or [], like, preset),
        method=method,
        guidance_scale=guidance_scale,
        steps=steps,
        seed=seed,
        source_noise=source_noise,
        slices=parse_slices(slices),
    )
    require_writable(output)
    if uncertainty:
        require_writable(uncertainty_path(output))
    scan = read_scan(input_)
    editor = load_editor(method, model, resolved_device(device))
    trust = load_trust(editor, editor_folder(method, model), model, resolved_device(device))
    with progress_shown() as progress:
        result, widths = trusted_edit(
            scan.volume, scan.acquisition.parameters, request, editor, trust, caution, progress=progress
        )
    written = write_counterfactual(output, scan, result.volume, result.requested, result.evidence)
    if widths is not None:
        quantity = {"quantity": "half-width of the 90 % interval"}
        write_counterfactual(uncertainty_path(output), scan, widths, result.requested, {**result.evidence, **quantity})
    for warning in result.evidence.get("warnings", []):
        warn(warning)
    emit(result.evidence, json, _edit_summary(result, written))


def segment(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder, or NIfTI.")],
    output: Annotated[Path, typer.Argument(help="NAME.nii.gz for NIfTI labels, or a folder for DICOM SEG.")],
    device: Device = "auto",
    model: Model = None,
    json: Json = False,
) -> None:
    """Label the tissue: background 0, fat 1, fibroglandular tissue 2."""
    from cfmri_core.io.scan import read_scan, write_labels
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.models.segmenter import Segmenter
    from cfmri_core.pipeline.segmentation import segment_volume, volumes_ml

    require_unused(output)
    scan = read_scan(input_)
    segmenter = Segmenter.load(locate_model("segmenter", model), resolved_device(device))
    with progress_shown() as progress:
        labels = segment_volume(scan.volume, segmenter, progress=progress)
    written = write_labels(output, scan, labels)
    volumes = volumes_ml(labels)
    lines = [f"{name}: {volume_ml:.1f} ml" for name, volume_ml in volumes.items()]
    emit({"output": written, "volumes_ml": volumes}, json, "\n".join([*lines, f"Written: {written}"]))


def parse_slices(text: str | None) -> tuple[int, int] | None:
    """Parse ``K`` or ``A:B`` into a half-open range of slice indices; ``None`` means all.

    Raises:
        RequestError: It is neither.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not first.isdigit() or (colon and not last.isdigit()):
        raise RequestError(f"--slices '{text}' is not a slice.", "Give K for one slice or A:B for slices A to B-1.")
    start, stop = int(first), int(last) if colon else int(first) + 1
    if start >= stop:
        raise RequestError(f"--slices '{text}' holds no slice.", "In A:B, B is the first slice left out.")
    return start, stop


def uncertainty_path(output: Path) -> Path:
    """Return where the map of an edit's uncertainty goes: beside it, its name ending in ``_uncertainty``."""
    from cfmri_core.io.nifti import is_nifti_path, with_ending

    if is_nifti_path(output):
        return with_ending(output, "_uncertainty.nii.gz")
    return output.with_name(output.name + "_uncertainty")


def require_unused(output: Path) -> None:
    """Refuse to write over something that exists.

    Raises:
        RequestError: The file exists, or the folder holds something.
    """
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists():
        raise RequestError(f"{output} exists already.", "Choose another output, or remove it first.")


def require_writable(output: Path) -> None:
    """Refuse, before any work is done, what a counterfactual could not be written to.

    Raises:
        RequestError: As `require_unused`; or the result could not be put into place.
    """
    from cfmri_core.io.atomic import require_replaceable
    from cfmri_core.io.nifti import is_nifti_path, with_ending

    require_unused(output)
    require_replaceable(output)
    if is_nifti_path(output):
        for ending in (".json", "_evidence.json"):
            require_unused(with_ending(output, ending))


def _changes(assignments: list[str], like: Path | None, preset: str | None) -> Mapping[str, str | float]:
    given = [bool(assignments), like is not None, preset is not None]
    if sum(given) != 1:
        raise RequestError(
            "Say in exactly one way what to change.", "Use --set NAME=VALUE (repeat it), --like OTHER or --preset NAME."
        )
    if like is not None:
        from cfmri_core.io.scan import read_scan

        return read_scan(like).acquisition.parameters.known()
    if preset is not None:
        from cfmri_core.simulation.protocols import PRESETS

        return PRESETS[choice("Preset", preset, tuple(PRESETS))].known()
    return parse_assignments(assignments)


def _prediction_cells(prediction: Mapping[str, object]) -> tuple[str, str]:
    value, probabilities = prediction.get("value"), prediction.get("probabilities")
    if isinstance(probabilities, Mapping):
        return formatted(value), f"{max(probabilities.values()):.2f}" if probabilities else ""
    deviation = prediction.get("standard_deviation")
    return formatted(value), "" if deviation is None else f"\N{PLUS-MINUS SIGN} {formatted(deviation)}"


def _edit_summary(result: Counterfactual, written: Path) -> str:
    evidence = result.evidence
    rows = [("parameter", "factual", "counterfactual")]
    factual, requested = evidence["factual"], evidence["requested"]
    rows += [(name, formatted(factual.get(name)), formatted(requested.get(name))) for name in evidence["changes"]]
    note(f"{evidence['network_evaluations_per_slice']} network evaluations per slice, {evidence['elapsed_s']:.1f} s")
    return f"{table(rows)}\nSYNTHETIC, not for diagnosis. Written: {written}"
