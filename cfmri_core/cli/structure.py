"""The command `structure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cfmri_core.cli.console import emit, progress_shown, warn
from cfmri_core.cli.editing import Device, Model, OnRefusal, require_writable
from cfmri_core.models.device import resolved_device

if TYPE_CHECKING:
    from cfmri_core.pipeline.counterfactual import Counterfactual


def structure(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="DICOM series folder, or NIfTI with sidecar.")],
    output: Annotated[Path, typer.Argument(help="NAME.nii.gz, or a folder that receives a DICOM series.")],
    fgt_fraction: Annotated[
        float | None, typer.Option(help="Wanted fibroglandular share of the breast volume, 0.01 to 0.8.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Wanted relative change of that share instead: 0.2 is 20 % more.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="seg-cft (default): fine-tuned against a segmenter; reg-cft: against a regressor, a baseline that "
            "shifts intensities; guidance: not fine-tuned, slower."
        ),
    ] = "seg-cft",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    on_refusal: OnRefusal = "warn",
    device: Device = "auto",
    model: Model = None,
    json: Annotated[bool, typer.Option("--json", help="Print the evidence as JSON only.")] = False,
) -> None:
    """Make the volume as it might have looked with more or less fibroglandular tissue."""
    from cfmri_core.io.scan import read_scan, write_anatomy_edit
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.models.structure_editor import StructureEditor
    from cfmri_core.pipeline.source_support import source_support
    from cfmri_core.pipeline.structure import StructureRequest, edit_structure

    request = StructureRequest(fgt_fraction=fgt_fraction, delta=delta, method=method, seed=seed)
    require_writable(output)
    scan = read_scan(input_)
    folder = locate_model("structure_editor", model)
    editor = StructureEditor.load(folder, resolved_device(device))
    support = source_support(scan.volume, folder, on_refusal)
    with progress_shown() as progress:
        result = edit_structure(
            scan.volume, scan.acquisition.parameters, request, editor, support=support, progress=progress
        )
    evidence = write_anatomy_edit(output, scan, result.volume, result.evidence)
    for warning in evidence["warnings"]:
        warn(warning)
    emit(evidence, json, _summary(result, output))


def _summary(result: Counterfactual, written: Path) -> str:
    found = result.evidence["structure"]
    lines = [
        f"Fibroglandular share of the breast: {found['share_before']:.3f} before, {found['share_asked']:.3f} asked, "
        f"{found['share_obtained']:.3f} obtained ({found['rounds']} rounds, as the editor's reader sees it)",
        f"Outside the breast: every voxel as it was (largest change {found['largest_change_outside']:g})",
        f"SYNTHETIC, not for diagnosis. Written: {written}",
    ]
    return "\n".join(lines)
