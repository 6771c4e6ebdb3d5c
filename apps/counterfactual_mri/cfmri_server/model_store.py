"""Which model is served: the one published last on this server, else the one that cfmri ships.

A published model is a folder named by its content, and one small file per kind lists what was published and which of it
is in use. Readers follow that file, so they see the old model or the new one and never half of either.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from cfmri_core.errors import CfmriError, CheckpointError, RequestError
from cfmri_core.io.atomic import atomic_folder, flush, write_text
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.scanners import FILE_NAME as SCANNERS

Model = TypeVar("Model")

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
#: Statistics that may lie beside the weights, see `cfmri_core.models.companion`.
COMPANIONS = ("support.json", "acceptance.json", "uncertainty.json", SCANNERS)

#: Publications kept of each kind, the one in use included.
_KEPT = 5


@dataclass(frozen=True)
class Publication:
    """One time that a model was published.

    Attributes:
        version: Counts up from 1; the shipped model is version 0.
        folder: Name of its folder.
        sha256: Checksum of its weights.
        follows: Version that was in use before.
        published: When, in UTC.
        comparison: How it compared with the model it replaced, see `cfmri_core.evaluation.candidate.Comparison`.
    """

    version: int
    folder: str
    sha256: str
    follows: int
    published: str
    comparison: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Ledger:
    """What was published of one kind, and the version in use."""

    in_use: int = 0
    publications: tuple[Publication, ...] = ()

    def find(self, version: int) -> Publication | None:
        return next((one for one in self.publications if one.version == version), None)


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
            CheckpointError: Nothing is published and nothing is shipped, or the model in use is gone.
        """
        ledger = self._read(kind)
        if not ledger.in_use:
            return locate_model(kind)
        publication = ledger.find(ledger.in_use)
        if publication is None or not (self.root / publication.folder / DESCRIPTION).is_file():
            raise CheckpointError(f"The published model of kind '{kind}' is gone.", "Roll back to the one before it.")
        return self.root / publication.folder

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

    def publications(self, kind: str) -> tuple[int, tuple[Publication, ...]]:
        """Return the version in use (0 is the shipped model) and what was published, oldest first."""
        ledger = self._read(kind)
        return ledger.in_use, ledger.publications

    def publish(self, kind: str, trained: Path, comparison: Mapping[str, Any] | None = None) -> Publication:
        """Copy a trained model folder in and make it the one in use.

        Raises:
            CheckpointError: Its weights are not those that its description names.
            ResourceError: It cannot be written.
        """
        sha256 = weights_sha256(trained)
        with self._writing():
            target = self.root / f"{kind}-{sha256[:16]}"
            if not _is_whole(target, sha256):
                self._copy(trained, target, sha256)
            ledger = self._read(kind)
            version = max((one.version for one in ledger.publications), default=0) + 1
            now = datetime.now(UTC).isoformat(timespec="seconds")
            publication = Publication(version, target.name, sha256, ledger.in_use, now, comparison)
            kept = (*ledger.publications, publication)[-_KEPT:]
            self._write(kind, _Ledger(version, kept))
            self._remove_others(kind, kept)
        return publication

    def roll_back(self, kind: str) -> int:
        """Make the model that was in use before the current one the one in use again; return its version.

        Where that one is no longer kept, the one before it follows, and at last the shipped model.

        Raises:
            RequestError: The shipped model is in use already.
            CheckpointError: There is no shipped model to go back to.
        """
        with self._writing():
            ledger = self._read(kind)
            if not ledger.in_use:
                raise RequestError("The shipped model is in use; there is none before it.")
            current = ledger.find(ledger.in_use)
            version = current.follows if current else 0
            earlier = ledger.find(version)
            while earlier is not None and not _is_whole(self.root / earlier.folder, earlier.sha256):
                version, earlier = earlier.follows, ledger.find(earlier.follows)
            if earlier is None:
                version = 0
                locate_model(kind)
            self._write(kind, replace(ledger, in_use=version))
        return version

    def _writing(self) -> FileLock:
        """Lock out other processes and threads that publish."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".lock", thread_local=False)

    def _copy(self, trained: Path, target: Path, sha256: str) -> None:
        with atomic_folder(target) as partial:
            for name in (WEIGHTS, DESCRIPTION, "README.md", *COMPANIONS):
                if (trained / name).exists():
                    shutil.copyfile(trained / name, partial / name)
                    flush(partial / name)
            if not _is_whole(partial, sha256):
                raise CheckpointError(f"The trained {WEIGHTS} is not what {DESCRIPTION} says.", "Train again.")
        flush(self.root)

    def _ledger_file(self, kind: str) -> Path:
        return self.root / f"{kind}.json"

    def _read(self, kind: str) -> _Ledger:
        file = self._ledger_file(kind)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            publications = tuple(Publication(**one) for one in content["publications"])
            return _Ledger(int(content["in_use"]), publications)
        except FileNotFoundError:
            return _Ledger()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file.name} does not tell which model is in use.", "Remove it to go back to the shipped model."
            ) from error

    def _write(self, kind: str, ledger: _Ledger) -> None:
        write_text(self._ledger_file(kind), json.dumps(asdict(ledger), indent=1))
        flush(self.root)

    def _remove_others(self, kind: str, kept: tuple[Publication, ...]) -> None:
        """Remove folders that no publication needs, and what a publishing that was killed left."""
        names = {publication.folder for publication in kept}
        for folder in [*self.root.glob(f"{kind}-*"), *self.root.glob(".part-*")]:
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path, sha256: str) -> bool:
    """Whether the weights are those of that checksum, and the description names them."""
    try:
        with (folder / WEIGHTS).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return found == sha256 == weights_sha256(folder)
    except (OSError, CheckpointError):
        return False


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
        key = (folder, device, *(_stamp(folder / name) for name in (WEIGHTS, DESCRIPTION, SCANNERS)))
        with self._lock:
            if self._model is None or key != self._key:
                self._model, self._key = self._load(folder, device), key
            return self._model


def _stamp(path: Path) -> tuple[int, int]:
    if not path.exists():
        return 0, 0
    status = path.stat()
    return status.st_mtime_ns, status.st_size
