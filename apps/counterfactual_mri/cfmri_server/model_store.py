"""Which model is served: the one published last on this server, else the one that cfmri ships.

A published model is a folder named by its content, and one small pointer file names the folder in
use. Readers follow the pointer, so they see the old model or the new one and never half of either.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from cfmri_core.errors import CfmriError
from cfmri_core.io.atomic import atomic_folder, write_text
from cfmri_core.models.model_folder import locate_model

Model = TypeVar("Model")

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
#: Statistics that may lie beside the weights, see `cfmri_core.models.companion`.
COMPANIONS = ("support.json", "acceptance.json", "uncertainty.json")

#: Published folders kept of each kind, the one in use included.
_KEPT = 3


class ModelStore:
    """The models of one server.

    Args:
        root: Folder of published models.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str) -> Path:
        """Return the folder of the model in use.

        Raises:
            CheckpointError: Nothing is published and nothing is shipped.
        """
        pointer = self._pointer(kind)
        if pointer.is_file():
            published = self.root / str(json.loads(pointer.read_text(encoding="utf-8"))["folder"])
            if (published / DESCRIPTION).is_file():
                return published
        return locate_model(kind)

    def has(self, kind: str) -> bool:
        """Whether there is a model of that kind."""
        try:
            return (self.folder(kind) / DESCRIPTION).is_file()
        except CfmriError:
            return False

    def description(self, kind: str) -> dict[str, Any]:
        """Return what ``model.json`` says, without reading weights."""
        content: dict[str, Any] = json.loads((self.folder(kind) / DESCRIPTION).read_text(encoding="utf-8"))
        return content

    def publish(self, kind: str, trained: Path) -> Path:
        """Copy a trained model folder in and make it the one in use."""
        sha256 = str(json.loads((trained / DESCRIPTION).read_text(encoding="utf-8"))["sha256"])
        target = self.root / f"{kind}-{sha256[:16]}"
        if not target.exists():
            with atomic_folder(target) as partial:
                for name in (WEIGHTS, DESCRIPTION, "README.md", *COMPANIONS):
                    if (trained / name).exists():
                        shutil.copyfile(trained / name, partial / name)
        write_text(self._pointer(kind), json.dumps({"folder": target.name}))
        self._remove_old(kind, target)
        return target

    def _pointer(self, kind: str) -> Path:
        return self.root / f"{kind}.json"

    def _remove_old(self, kind: str, in_use: Path) -> None:
        others = [folder for folder in self.root.glob(f"{kind}-*") if folder.is_dir() and folder != in_use]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[_KEPT - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


class LoadedModel(Generic[Model]):
    """One kind of model in memory, read again when another one was published.

    Args:
        store: Where the model in use is found.
        kind: Kind of model.
        load: Reads a model folder onto a device.
    """

    def __init__(self, store: ModelStore, kind: str, load: Callable[[Path, str], Model]) -> None:
        self.store, self.kind = store, kind
        self._load = load
        self._lock = threading.Lock()
        self._key: tuple[object, ...] = ()
        self._model: Model | None = None

    def get(self, device: str) -> Model:
        """Return the model in use, on a device.

        Raises:
            CheckpointError: It is absent or damaged.
        """
        folder = self.store.folder(self.kind)
        key = (folder, device, *_stamp(folder / WEIGHTS), *_stamp(folder / DESCRIPTION))
        with self._lock:
            if self._model is None or key != self._key:
                self._model, self._key = self._load(folder, device), key
            return self._model


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    status = path.stat()
    return status.st_mtime_ns, status.st_size
