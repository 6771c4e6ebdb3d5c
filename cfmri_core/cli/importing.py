"""Models in and out: `import-checkpoint`, `bundle`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import choice, emit, warn


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Lightning checkpoint of the paper's authors.")],
    kind: Annotated[str, typer.Option(help="editor, iap-predictor or segmenter.")],
    output: Annotated[Path, typer.Option(help="Model folder to write.")],
    iap_checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The predictor's checkpoint (or a JSON file with features_dims, features_labels, features_scale): "
            "it says what the columns of the editor's condition mean. An editor needs it."
        ),
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle",
            help="Read a checkpoint that holds Python objects too. Code in the file then runs with your rights: "
            "only for files from people you trust.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Turn a published checkpoint of the paper's authors into a model folder: safetensors and JSON, no pickle."""
    from cfmri_core.models.import_checkpoint import import_checkpoint as run

    if trust_pickle:
        warn("--trust-pickle: code in the checkpoint may run with your rights.")
    folder = run(checkpoint, kind, output, iap_checkpoint=iap_checkpoint, trust_pickle=trust_pickle)
    emit({"model": folder, "kind": kind}, json, f"Model written: {folder}")


def bundle(
    kind: Annotated[str, typer.Argument(help="direct-editor, editor, iap-predictor or segmenter.")],
    output: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    model: Annotated[Path | None, typer.Option(help="Model folder, instead of the shipped one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Write a model as a MONAI bundle, to share it."""
    from cfmri_core.models.model_folder import locate_model
    from cfmri_core.pipeline.bundle import BUNDLE_KINDS, write_bundle

    kind = choice("Model", kind.replace("-", "_"), BUNDLE_KINDS)
    folder = write_bundle(locate_model(kind, model), kind, output)
    emit({"bundle": folder, "kind": kind}, json, f"Bundle written: {folder}")
