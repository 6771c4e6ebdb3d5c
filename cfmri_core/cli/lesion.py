"""The command `lesion`: a scan with a lesion here, or without the one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.cli.console import emit, formatted, note, progress_shown, table, warn
from cfmri_core.cli.editing import Device, Model, OnRefusal, require_writable
from cfmri_core.errors import RequestError
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.pipeline.lesion_editing import LesionEdit
    from cfmri_core.pipeline.lesion_region import AskedRegion
    from cfmri_core.volume import Volume


def lesion(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder, or NIfTI with sidecar.")],
    output: Annotated[Path, typer.Argument(help="NAME.nii.gz for NIfTI, or a folder for a DICOM series.")],
    mask: Annotated[Path | None, typer.Option(help="NIfTI mask on the scan's grid.")] = None,
    box: Annotated[
        str | None, typer.Option(metavar="I0,J0,K0,I1,J1,K1", help="Voxels of the scan's array; the last is left out.")
    ] = None,
    insert: Annotated[bool, typer.Option("--insert", help="Put a lesion there.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take away what is there.")] = False,
    method: Annotated[str, typer.Option(help="mededit, repaint, sdedit or palette.")] = "mededit",
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the method's own if absent.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.", min=0)] = 0,
    on_refusal: OnRefusal = "warn",
    device: Device = "auto",
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON only.")] = False,
) -> None:
    """Insert a lesion into a scan or remove one; outside of the region every stored value stays."""
    from cfmri_core.io.scan import read_scan, write_anatomy_edit
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.pipeline.lesion_editing import edit_lesion
    from cfmri_core.pipeline.lesion_method import LesionRequest, lesion_method, load_lesion_editor
    from cfmri_core.pipeline.lesion_region import breast_mask, tissue_segmenter
    from cfmri_core.pipeline.source_support import source_support

    if insert == remove:
        raise RequestError("Say whether to insert or to remove.", "Give exactly one of --insert and --remove.")
    request = LesionRequest(mode="insert" if insert else "remove", method=method, steps=steps, seed=seed)
    require_writable(output)
    scan = read_scan(input_)
    asked = _asked(mask, box, scan.volume)
    editor = load_lesion_editor(method, model, resolved_device(device))
    support = source_support(scan.volume, locate_model(lesion_method(method).model, model), on_refusal)
    breast = breast_mask(scan.volume, tissue_segmenter(model, resolved_device(device)))
    with progress_shown() as progress:
        result = edit_lesion(
            scan.volume, scan.acquisition.parameters, asked, request, editor, breast, support=support, progress=progress
        )
    evidence = write_anatomy_edit(output, scan, result.volume, result.evidence)
    for warning in evidence["warnings"]:
        warn(warning)
    emit(evidence, json, _summary(result, output))


def parse_box(text: str) -> tuple[int, ...]:
    """Parse six whole numbers separated by commas.

    Raises:
        RequestError: They are not that.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 6 or not all(part.isascii() and part.isdigit() for part in parts):
        raise RequestError(f"--box '{text}' is not a box.", "Give I0,J0,K0,I1,J1,K1: whole numbers from 0.")
    return tuple(map(int, parts))


def _asked(mask: Path | None, box: str | None, volume: Volume) -> AskedRegion:
    from cfmri_core.io.nifti import read_nifti
    from cfmri_core.pipeline.lesion_region import AskedRegion

    if (mask is None) == (box is None):
        raise RequestError("Say in exactly one way where.", "Give --mask M.nii.gz or --box I0,J0,K0,I1,J1,K1.")
    if mask is not None:
        return AskedRegion.of_mask(read_nifti(mask), volume)
    return AskedRegion.of_box(parse_box(box or ""), volume)


def _summary(result: LesionEdit, written: Path) -> str:
    evidence = result.evidence
    obtained, unchanged = evidence["obtained"], evidence["unchanged"]
    rows = [
        ("asked", f"{evidence['edit']} by {evidence['method']}, {evidence['asked']['volume_ml']:.2f} ml"),
        ("changed", f"{obtained['changed_volume_ml']:.2f} ml of the {unchanged['region_ml']:.2f} ml that may change"),
        ("contrast", f"{formatted(obtained['contrast_before'])} before, {formatted(obtained['contrast_after'])} after"),
        ("outside", f"largest difference {unchanged['max_abs_difference_outside']:g}"),
    ]
    note(f"{evidence['steps']} steps, {evidence['elapsed_s']:.1f} s")
    return f"{table(rows)}\nSYNTHETIC, not for diagnosis. Written: {written}"
