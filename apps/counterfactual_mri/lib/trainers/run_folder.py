"""Where one training works: what it needs to go on after it was stopped, and the model that came of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.models.companion import weights_sha256

_RUN, _CHECKPOINT, _COUNTERFACTUALS, _CANDIDATE = "run.json", "checkpoint.pt", "counterfactuals", "candidate.json"


class RunFolder:
    """The folder of a model's last training. A new one takes its place; the same one, if unfinished, goes on in it.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def counterfactuals(self) -> Path:
        """Cache of the counterfactuals of an unfinished training."""
        return self.path / _COUNTERFACTUALS

    @property
    def model(self) -> Path:
        """What was trained."""
        return self.path / "model"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return any(self._checkpoints())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder to one training.

        Raises:
            RequestError: Another training works in it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path.with_suffix(".lock"), timeout=0):
                yield
        except Timeout:
            raise RequestError(
                "Another training of this model runs.", "Wait until it ends, or end its process."
            ) from None

    def begin(self, identity: Mapping[str, Any], *, resume: bool = True) -> bool:
        """Make the folder ready for a training.

        Args:
            identity: All that decides what the training computes. An unfinished training of another identity is
                dropped: its checkpoint would be of other data or options.
            resume: Go on with an unfinished training of this identity.

        Returns:
            Whether the training goes on from a checkpoint.
        """
        wanted = _digest([json_text(identity, indent=None)])
        if resume and self._identity() == wanted:
            for partial in self.path.rglob(".part-*"):
                shutil.rmtree(partial, ignore_errors=True)
            return self.has_checkpoint
        self._drop(_RUN, _CANDIDATE)  # first: from here on nobody goes on with what is being removed
        shutil.rmtree(self.path, ignore_errors=True)
        write_text(self.path / _RUN, json.dumps({"identity": wanted}))
        return False

    def drop_checkpoint(self) -> None:
        """Forget how far the training was."""
        for path in self._checkpoints():
            path.unlink()

    def finish(self, comparison: object) -> None:
        """Keep the trained model as the candidate, and drop what only an unfinished training needs."""
        content = {"sha256": weights_sha256(self.model), "trained": _now(), "comparison": comparison}
        write_text(self.path / _CANDIDATE, json_text(content))
        self._drop(_RUN)
        self.drop_checkpoint()
        shutil.rmtree(self.counterfactuals, ignore_errors=True)

    def candidate(self) -> dict[str, Any] | None:
        """Return checksum, time and comparison of the model of the last finished training, if it is still there."""
        try:
            content: dict[str, Any] = json.loads((self.path / _CANDIDATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def _checkpoints(self) -> list[Path]:
        """Checkpoints of the training, or of its parts, each in a folder of its own."""
        return [*self.path.glob(_CHECKPOINT), *self.path.glob(f"*/{_CHECKPOINT}")]

    def _identity(self) -> str | None:
        try:
            return str(json.loads((self.path / _RUN).read_text(encoding="utf-8"))["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _drop(self, *names: str) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)


def data_digest(studies: Sequence[Study]) -> str:
    """Return what changes when a study is added, removed or written again, or its labels, lesion mask or sidecar are.

    Sizes and times of files are compared, not their content: a training may read a thousand volumes.
    """
    return _digest(_traces(studies))


def _traces(studies: Sequence[Study]) -> Iterator[str]:
    for study in studies:
        yield study.subject_id
        sidecar = study.scan_path.with_name(study.scan_path.name.split(".nii")[0] + ".json")
        for path in (study.scan_path, sidecar, study.labels_path, study.lesion_path):
            files = sorted(path.rglob("*")) if path is not None and path.is_dir() else [path]
            for file in files:
                if file is not None and file.is_file():
                    status = file.stat()
                    yield f"{file.name} {status.st_size} {status.st_mtime_ns}"


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
