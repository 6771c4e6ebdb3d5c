"""Read and write a trained model: a folder with model.safetensors, model.json and README.md.

Weights are never unpickled: a pickle can run code, safetensors cannot.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.atomic import atomic_folder, require_replaceable
from cfmri_core.io.json_text import parsed_json

FORMAT_VERSION = 1
#: Folder of a MONAI bundle that holds the model.
BUNDLED = "models"
KINDS = (
    "editor",
    "iap_predictor",
    "segmenter",
    "direct_editor",
    "lesion_editor",
    "palette_editor",
    "lesion_segmenter",
    "structure_editor",
)

_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"
_CARD = "README.md"
_SHIPPED = Path(__file__).resolve().parents[1] / "weights"


def write_model(
    folder: Path, kind: str, network: nn.Module, config: Mapping[str, Any], card: str, half: bool = True
) -> None:
    """Write a model folder whole, or not at all; an earlier one of that name is replaced.

    Args:
        folder: Where to write.
        kind: One of `KINDS`.
        network: Network whose state is written.
        config: All that is needed to build the network again, JSON-ready.
        card: Model card, Markdown.
        half: Whether matrices and kernels are stored in half precision. Vectors (biases,
            normalisation statistics) stay float32: they weigh nothing and may underflow.

    Raises:
        ResourceError: The folder cannot be written.
    """
    state = {name: _for_disk(tensor, half) for name, tensor in network.state_dict().items()}
    with atomic_folder(Path(folder)) as partial:
        weights = tensors_to_bytes(state)
        # Not safetensors' own save_file: it makes the file readable by its owner alone.
        (partial / _WEIGHTS).write_bytes(weights)
        description = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "config": config,
        }
        (partial / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        (partial / _CARD).write_text(card, encoding="utf-8")


def read_model(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Read a model folder and check it against its own checksum.

    Returns:
        The configuration, the state (floating-point tensors as float32), and the SHA-256 of the
        weights file in hexadecimal.

    Raises:
        CheckpointError: The folder or a file is absent, the model is of another kind or of a newer
            format, or the weights are not the ones the description belongs to.
    """
    folder = Path(folder)
    description = _read_description(folder)
    if description["kind"] != kind:
        raise CheckpointError(
            f"{folder} holds a model of kind '{description['kind']}', not '{kind}'.", f"Give a folder of kind '{kind}'."
        )
    weights = _read_bytes(folder / _WEIGHTS)
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != description["sha256"]:
        raise CheckpointError(
            f"{folder / _WEIGHTS} is damaged: its SHA-256 is {sha256[:12]}..., {_DESCRIPTION} says "
            f"{str(description['sha256'])[:12]}...",
            "Copy the model folder again, or train it again.",
        )
    try:
        state = load_tensors(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / _WEIGHTS} is not a safetensors file: {error}.") from error
    in_memory = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return dict(description["config"]), in_memory, sha256


def load_weights(network: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    """Put a state into a network; every tensor must have its place and every place its tensor.

    Raises:
        CheckpointError: Tensors are missing, left over, of another shape, or hold values that are not finite.
    """
    expected = network.state_dict()
    missing, left_over = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    misshapen = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    problems = {"missing": missing, "left over": left_over, "of another shape": sorted(misshapen)}
    found = [f"{len(names)} {what} (first: {names[0]})" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"The weights in {folder} do not fit the network that {_DESCRIPTION} describes: {'; '.join(found)}.",
            "The folder was written by another version of cfmri or edited by hand; train or copy it again.",
        )
    broken = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if broken:
        raise CheckpointError(
            f"{len(broken)} tensor(s) of the weights in {folder} hold NaN or infinite values (first: {broken[0]}).",
            "Copy the model folder again, or train it again.",
        )
    network.load_state_dict(state)


def _is_finite(tensor: Tensor) -> bool:
    # A sum is ten times as fast to look at, but may overflow.
    return math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())


@contextlib.contextmanager
def checked_config(folder: Path) -> Iterator[None]:
    """Turn an incomplete or impossible configuration into a `CheckpointError` that names the folder."""
    try:
        yield
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / _DESCRIPTION} does not describe a model this version of cfmri can build: {error!r}.",
            "Copy the model folder again, or update cfmri.",
        ) from error


def locate_model(kind: str, root: Path | None = None) -> Path:
    """Return the folder of the model of that kind.

    Args:
        kind: One of `KINDS`.
        root: A model folder, a MONAI bundle of ours, or a folder that holds a model folder named after the kind.
            Without it the environment variable CFMRI_MODELS is used, then the models shipped with cfmri.

    Raises:
        CheckpointError: There is no such model; the hint tells how to get one.
    """
    named = root or (Path(os.environ["CFMRI_MODELS"]) if os.environ.get("CFMRI_MODELS") else None)
    candidates = [_SHIPPED / kind] if named is None else [named, named / BUNDLED, named / kind]
    for folder in candidates:
        is_named_after_kind = folder.name == kind and folder != named
        if (folder / _DESCRIPTION).is_file() and (is_named_after_kind or _read_description(folder)["kind"] == kind):
            return folder
    raise CheckpointError(
        f"There is no model of kind '{kind}' in {candidates[-1]}.",
        f"Train one with 'cfmri train {kind.replace('_', '-')} DATA --output DIR', or set CFMRI_MODELS to a folder "
        f"that holds '{kind}'.",
    )


@contextlib.contextmanager
def copied_models(root: Path | None, output: Path) -> Iterator[Path]:
    """Copy every model that `locate_model` finds, each named after its kind; yield the copy before it is in place.

    Args:
        root: As for `locate_model`.
        output: New folder; it is there only once all is well.

    Raises:
        RequestError: There is something in ``output``, or it lies inside a model.
        ResourceError: It cannot be written.
    """
    require_replaceable(output)
    with atomic_folder(output) as partial:
        for kind in KINDS:
            try:
                found = locate_model(kind, root)
            except CheckpointError:
                continue
            if found.resolve() in output.resolve().parents:
                raise RequestError(f"{output} lies inside the model in {found}.", "Give a folder elsewhere.")
            shutil.copytree(found, partial / kind)
        yield partial


def _for_disk(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    if half and tensor.is_floating_point() and tensor.ndim >= 2:
        tensor = tensor.to(torch.float16)
    return tensor.contiguous().clone()


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():  # a device or a pipe would be read for ever
        raise CheckpointError(f"There is no file {path}.", f"A model is a folder with {_WEIGHTS} and {_DESCRIPTION}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / _DESCRIPTION
    try:
        description = parsed_json(_read_bytes(path))
        version, complete = description["format_version"], {"kind", "sha256", "config"} <= set(description)
        complete = complete and isinstance(description["config"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        version, complete = None, False
    if not complete:
        raise CheckpointError(f"{path} is not the description of a model.", "Copy the model folder again.")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this cfmri reads {FORMAT_VERSION}.", "Update cfmri."
        )
    return dict(description)
