"""Read PyTorch Lightning checkpoints without running what they hold.

A checkpoint is a pickle, and a pickle can run code when it is read. Here it is read by torch's own restricted reader,
which knows tensors, plain containers and what `_allowed` lists, and refuses the rest. A file that needs more is read
only when the user says to trust it, by a Python process of its own (`python -m cfmri_core.io.lightning`) that hands
tensors and plain values back as files. The process keeps foreign objects out of this one; it is no sandbox: the code in
the file runs with the user's rights.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cfmri_core.errors import CheckpointError

_TENSORS, _VALUES = "state.safetensors", "hyper_parameters.json"

#: What torch's readers raise on a malformed file. `OSError` too: the file was read to its end before.
_MALFORMED = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
    ArithmeticError, ImportError, OSError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class LightningCheckpoint:
    """What is of use in a checkpoint.

    Attributes:
        path: Where it was read.
        state: The module's tensors by name, on the CPU.
        hyper_parameters: Arguments of the module as JSON would give them back: text keys, lists, numbers, ``None``
            for whatever is neither number, text nor container.
        sha256: SHA-256 of the file in hexadecimal.
    """

    path: Path
    state: Mapping[str, Tensor]
    hyper_parameters: Mapping[str, Any]
    sha256: str


def read_lightning(path: Path, *, trust_pickle: bool = False) -> LightningCheckpoint:
    """Read a Lightning checkpoint.

    Args:
        path: The ``.ckpt`` file.
        trust_pickle: Read a file that needs a real pickle too, which runs the code it holds.

    Raises:
        CheckpointError: The file is absent, damaged, no Lightning checkpoint, or needs a real pickle.
    """
    path = Path(path)
    sha256 = _sha256(path)
    try:
        state, values = _restricted(path)
    except CheckpointError:
        if not trust_pickle:
            raise
        state, values = _unpickled_elsewhere(path)
    return LightningCheckpoint(path, state, values, sha256)


def plain(value: object) -> Any:
    """Return a value as JSON would give it back; ``None`` for what JSON cannot hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


def _restricted(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with torch.serialization.safe_globals(_allowed()):
            # Mapped, not read: the optimiser's state is two thirds of the file and stays on disk.
            raw = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except _MALFORMED as error:
        raise _refusal(path, error) from error
    return _contents(path, raw)


def _allowed() -> list[Any]:
    """Name what may be built besides tensors and containers: NumPy numbers and arrays, under old and new names."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    renamed = [pair for name in modules for pair in ((scalar, f"{name}.scalar"), (array, f"{name}._reconstruct"))]
    return [np.ndarray, np.dtype, *dtypes, *renamed]


def _refusal(path: Path, error: Exception) -> CheckpointError:
    """Say whether the file is damaged, or holds objects that only a real pickle can build."""
    try:
        with torch.serialization.safe_globals(_allowed()):
            unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except _MALFORMED:
        unsafe = []
    if unsafe:
        return CheckpointError(
            f"{path} holds more than tensors and plain values: {', '.join(unsafe[:8])}. It was not opened further, "
            "because building such objects can run code.",
            "Only if you trust whoever made the file, add --trust-pickle: its code then runs with your rights.",
        )
    return CheckpointError(
        f"{path} is not a whole PyTorch checkpoint ({type(error).__name__}).", "Download or copy the .ckpt file again."
    )


def _contents(path: Path, raw: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    state = raw.get("state_dict") if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path} is not a Lightning checkpoint: it has no state_dict.", "Give the .ckpt file that Lightning wrote."
        )
    odd = [str(name) for name, tensor in state.items() if not isinstance(name, str) or not _is_ordinary(tensor)]
    if odd:
        raise CheckpointError(f"{path} holds something other than a dense tensor as {', '.join(odd[:8])}.")
    values = plain(raw.get("hyper_parameters"))
    tensors = {name: tensor.detach().as_subclass(torch.Tensor) for name, tensor in state.items()}
    return tensors, values if isinstance(values, dict) else {}


def _is_ordinary(tensor: object) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_complex()
        and not tensor.is_quantized
    )


def _unpickled_elsewhere(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="cfmri-import-") as folder:
        command = [sys.executable, "-I", "-m", "cfmri_core.io.lightning", str(path.resolve()), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
        tensors, values = Path(folder) / _TENSORS, Path(folder) / _VALUES
        if done.returncode or not values.is_file():
            reason = (done.stderr.strip().splitlines() or ["it stopped without a word"])[-1]
            raise CheckpointError(
                f"{path} could not be unpickled: {reason[:300]}",
                "If a package is missing, install the one the checkpoint was written with, for this import only.",
            )
        return load_file(tensors), dict(json.loads(values.read_text(encoding="utf-8")))


def _unpickle_to_files(path: Path, folder: Path) -> None:
    raw = torch.load(path, map_location="cpu", weights_only=False)
    state, values = _contents(path, raw)
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, folder / _TENSORS)
    (folder / _VALUES).write_text(json.dumps(values), encoding="utf-8")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}.", "Give the .ckpt file that Lightning wrote.") from None
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


if __name__ == "__main__":
    _unpickle_to_files(Path(sys.argv[1]), Path(sys.argv[2]))
