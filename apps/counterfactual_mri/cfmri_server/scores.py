"""What a scoring method found out about the images: a JSON file that its process writes and the server reads.

A file of our own, not MONAI Label's ``datastore_v2.json``: server and scoring process would each rewrite that one
whole, and lose what the other wrote. This one has one writer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text

NONE, RUNNING, DONE, FAILED = "none", "running", "done", "failed"

#: Shortest time between two writes, in seconds.
_WRITE_EVERY_S = 1.0


#: What is told before any scoring.
EMPTY_PROGRESS: Mapping[str, Any] = {
    "state": NONE, "scored": 0, "failed": 0, "images": 0, "eta_s": None, "message": "",
}  # fmt: skip


class ScoreFile:
    """Scores of images, good only for the models that made them and the pixels they were made of.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def progress(self) -> dict[str, Any]:
        """Return how far the scoring is; its state is ``none`` before the first one."""
        content = self._content()
        return {name: content.get(name, value) for name, value in EMPTY_PROGRESS.items()}

    def written_since(self, moment: datetime) -> bool:
        """Whether the file was written after a moment, local time in whole seconds."""
        return self.path.is_file() and self.path.stat().st_mtime >= moment.timestamp()

    def entries(self, models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return what these models made, by image id: ``value``, and ``stamp`` of the file scored.

        Args:
            models: Kind of model to checksum.
        """
        content = self._content()
        scores: dict[str, dict[str, Any]] = content.get("scores", {})
        return scores if content.get("models") == dict(models) else {}

    def scores(self, models: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, float]:
        """Return the scores that these models made of these files as they are now, by image id."""
        entries = self.entries(models)
        return {image: entries[image]["value"] for image, file in files.items() if _is_of(entries.get(image), file)}

    def _content(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content


class ScoreWriter:
    """Writes a `ScoreFile` while its scoring runs; scores of the same models that are there already are kept.

    Args:
        path: The file.
        models: Kind of model to checksum.
        files: The files to score, by image id; a score of earlier contents is dropped.
    """

    def __init__(self, path: Path, models: Mapping[str, str], files: Mapping[str, Path]) -> None:
        self.path, self.models = path, dict(models)
        self.files = dict(files)
        entries = ScoreFile(path).entries(models)
        self.scores = {
            image: entry for image, entry in entries.items() if image not in files or _is_of(entry, files[image])
        }
        self.failed = 0
        self._made, self._started_s, self._written_s = 0, time.monotonic(), 0.0
        self._write(RUNNING, force=True)

    @property
    def missing(self) -> list[str]:
        """Images that have no score yet."""
        return [image for image in self.files if image not in self.scores]

    def add(self, image: str, value: float | None) -> None:
        """Take one score, or ``None`` for an image that could not be scored."""
        self._made += 1
        if value is None:
            self.failed += 1
        else:
            self.scores[image] = {"value": value, "stamp": stamp(self.files[image])}
        self._write(RUNNING)

    def end(self, state: str, message: str = "") -> None:
        """Write the final state: ``done`` or ``failed``."""
        self._write(state, message, force=True)

    def _write(self, state: str, message: str = "", *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self._written_s < _WRITE_EVERY_S:
            return
        self._written_s = now
        left = len(self.missing) - self.failed
        per_image_s = (now - self._started_s) / self._made if self._made else None
        eta_s = 0.0 if state == DONE else (None if per_image_s is None else round(per_image_s * left, 1))
        counts = {"scored": len(self.files) - len(self.missing), "failed": self.failed, "images": len(self.files)}
        text = json_text(
            {"state": state, **counts, "eta_s": eta_s, "message": message, "models": self.models, "scores": self.scores}
        )
        write_text(self.path, text)


def stamp(file: Path) -> str:
    """Return a mark that changes when a file is written anew."""
    status = file.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def _is_of(entry: Mapping[str, Any] | None, file: Path) -> bool:
    return entry is not None and file.is_file() and entry.get("stamp") == stamp(file)
