"""The command `import-checkpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfmri_core.cli.console import emit, warn


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
