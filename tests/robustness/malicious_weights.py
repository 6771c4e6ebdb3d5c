"""Files that are no weights: what runs code when it is unpickled or loaded, and what lies about itself."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Touch:
    """Writes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


class Saves(torch.nn.Module):
    """TorchScript that writes a file as soon as it is loaded, and again when it is run."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.canary = canary

    def forward(self, images: Tensor) -> Tensor:
        torch.save(images, self.canary)
        return images

    @torch.jit.export
    def __getstate__(self):
        return (self.canary, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.canary = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.canary)


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def _zip(entries: dict[str, bytes]) -> bytes:
    def save(buffer):
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return _saved(save)


def _tar(name: str, content: bytes) -> bytes:
    def save(buffer):
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))

    return _saved(save)


def _opcodes(canary: Path) -> bytes:
    """A hand-written pickle, protocol 0: calls builtins.exec by name."""
    code = f"open({str(canary)!r}, 'w')"
    return b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR."


def safetensors(header: object, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(dtype: str = "F32", shape: tuple[int, ...] = (4,), offsets: tuple[int, int] = (0, 16)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def pickles(canary: Path) -> dict[str, bytes]:
    """Everything that is, or holds, a pickle or a program."""
    evil, harmless = Touch(canary), {"state_dict": {"a": torch.zeros(1)}}
    state = {"state_dict": {"model.weight": evil}, "network": evil, "hyper_parameters": {"x": evil}}
    scripted = torch.jit.script(Saves(str(canary)))
    outside = f"../../{canary.name}"
    return {
        "pickle, protocol 2": pickle.dumps(evil, protocol=2),
        "pickle, protocol 5": pickle.dumps(state, protocol=5),
        "pickle, opcodes by hand": _opcodes(canary),
        "torch.save, zip": _saved(lambda buffer: torch.save(state, buffer)),
        "torch.save, legacy": _saved(lambda b: torch.save(state, b, _use_new_zipfile_serialization=False)),
        "torch.save, tar": _tar("pickle", pickle.dumps(evil, protocol=2)),
        "torch.jit": _saved(lambda buffer: torch.jit.save(scripted, buffer)),
        "zip with data.pkl": _zip({"archive/data.pkl": pickle.dumps(evil, protocol=2), "archive/version": b"3"}),
        "zip that leaves its folder": _zip({outside: b"x", "archive/data.pkl": pickle.dumps(harmless)}),
        "tar that leaves its folder": _tar(outside, b"x"),
        "npz with objects": _saved(lambda buffer: np.savez(buffer, a=np.array([evil], dtype=object))),
        "npy with objects": _saved(lambda b: np.save(b, np.array([evil], dtype=object), allow_pickle=True)),
        "gzip of a pickle": gzip.compress(pickle.dumps(evil)),
        "a Python file": f"open({str(canary)!r}, 'w')\n".encode(),
    }


def lies() -> dict[str, bytes]:
    """Safetensors files whose header is not true."""
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    return {
        "header longer than the file": safetensors({"a": _tensor()}, length=2**20),
        "header of 2^63 bytes": safetensors({"a": _tensor()}, length=2**63),
        "offsets beyond the end": safetensors({"a": _tensor(offsets=(0, 2**40))}),
        "offsets backwards": safetensors({"a": _tensor(offsets=(16, 0))}),
        "offsets that overlap": safetensors({"a": _tensor(), "b": _tensor(offsets=(8, 24))}),
        "shape that overflows": safetensors({"a": _tensor(shape=(2**62, 2**62))}),
        "dtype that there is not": safetensors({"a": _tensor(dtype="OBJECT")}),
        "header that is no object": safetensors([1, 2]),
        "header nested without end": safetensors(deep),
        "header that is no text": safetensors(b"\xff\xfe\x00{}"),
        "nothing at all": b"",
    }


def descriptions(canary: Path) -> dict[str, bytes]:
    """Files offered as model.json: MONAI bundle expressions, nesting, sizes, and plain nonsense."""
    run = f"$open({str(canary)!r}, 'w')"
    whole = {"kind": "segmenter", "format_version": 1, "sha256": "0" * 64}
    network = {"_target_": "builtins.open", "file": str(canary), "mode": "w"}
    size = {"preset": "x", "image_size": 96, "channels": [10**6, 10**6], "norm": "BATCH"}
    return {
        "expressions of a MONAI bundle": json.dumps({"imports": [run], "network_def": network, "run": [run]}).encode(),
        "expressions as configuration": json.dumps({**whole, "config": {"segmenter": {"preset": run}}}).encode(),
        "a network of 10^13 weights": json.dumps({**whole, "config": {"segmenter": size}}).encode(),
        "nested without end": b'{"kind":' + b"[" * 200_000,
        "a checksum that is an object": json.dumps({**whole, "sha256": {"$": run}, "config": {}}).encode(),
        "a pickle": pickle.dumps(Touch(canary)),
    }
