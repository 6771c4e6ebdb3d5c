"""Small JSON files of statistics beside a model's weights: what was learnt about it, not what it computes.

A model folder without them loads all the same. Each names the weights it belongs to, so that statistics
of one training are never read as those of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cfmri_core.errors import CheckpointError, OtherWeightsError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text, parsed_json

FORMAT_VERSION = 1


def write_companion(folder: Path, name: str, sha256: str, values: Mapping[str, Any]) -> Path:
    """Write statistics beside a model.

    Args:
        folder: Model folder.
        name: File name, ending in ``.json``.
        sha256: Checksum of the weights they belong to.
        values: JSON-ready.

    Returns:
        The file.

    Raises:
        ResourceError: It cannot be written.
    """
    path = Path(folder) / name
    write_text(path, json_text({"format_version": FORMAT_VERSION, "model_sha256": sha256, **values}, indent=1) + "\n")
    return path


def read_companion(folder: Path, name: str, sha256: str) -> dict[str, Any] | None:
    """Return what `write_companion` wrote, ``None`` where there is no such file.

    Raises:
        CheckpointError: It is damaged or of another format.
        OtherWeightsError: It belongs to other weights.
    """
    path = Path(folder) / name
    if not path.is_file():
        return None
    with checked_companion(path):
        values = dict(parsed_json(path.read_text(encoding="utf-8")))
        version, belongs_to = values.pop("format_version"), values.pop("model_sha256")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this cfmri reads {FORMAT_VERSION}.", "Update cfmri."
        )
    if belongs_to != sha256:
        raise OtherWeightsError(
            f"{path} belongs to other weights than those beside it.", "Remove it, or calibrate the model again."
        )
    return values


def weights_sha256(folder: Path) -> str:
    """Return the checksum of the weights in a model folder that was just written.

    Raises:
        CheckpointError: It is not a model folder.
    """
    path = Path(folder) / "model.json"
    with checked_companion(path):
        return str(parsed_json(path.read_text(encoding="utf-8"))["sha256"])


@contextmanager
def checked_companion(path: Path) -> Iterator[None]:
    """Turn unreadable or incomplete statistics into a `CheckpointError` that names the file."""
    try:
        yield
    except (OSError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{path} does not hold the statistics it is named after: {error!r}.",
            "Remove it, or calibrate the model again.",
        ) from error
