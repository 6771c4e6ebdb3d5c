"""Objects on their way into an archive: kept in a folder until the archive has them.

An upload is a folder that appears by one rename, and goes by one rename after it is noted as stored. Killed at any
moment, the server finds it again at its next start and sends it again, which does no harm: the archive is asked first
what it has, and the same content has the same identifiers.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom

from cfmri_core.errors import CfmriError, RemoteError
from cfmri_core.io.atomic import flush, write_text
from cfmri_core.io.json_text import json_text
from cfmri_server.problem import detail_of

logger = logging.getLogger("cfmri.outbox")

PENDING, FAILED, STORED = "pending", "failed", "stored"
COUNTERFACTUAL, SEGMENTATION = "counterfactual", "segmentation"

#: First and longest pause before an upload is tried again, in seconds; of one that was refused, always the longest.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0
#: How often the folder is looked at, in seconds: another process may have added something.
_LOOK_EVERY_S = 1.0
#: Most stored uploads told of.
_TOLD = 100


@dataclass
class _Trouble:
    """Why an upload is still here."""

    error: CfmriError
    attempts: int
    next_try_s: float

    @property
    def is_refusal(self) -> bool:
        return not (isinstance(self.error, RemoteError) and self.error.retryable)


class Outbox:
    """Uploads that wait, and a ledger of those that are done.

    Args:
        folder: Where they are kept.
        store: Stores files in the archive, all of them or with an error; may be called again with the same ones.
    """

    def __init__(self, folder: Path, store: Callable[[Sequence[Path]], object]) -> None:
        self._waiting, self._done = folder / "waiting", folder / "stored"
        self._store = store
        self._trouble: dict[str, _Trouble] = {}
        self._wake = threading.Event()
        for place in (self._waiting, self._done):
            place.mkdir(parents=True, exist_ok=True)

    def add(self, kind: str, image_id: str, write: Callable[[Path], object]) -> str:
        """Queue one series, and return its identifier; one that waits already is not queued again.

        Args:
            kind: `COUNTERFACTUAL` or `SEGMENTATION`.
            image_id: The image that it was made from.
            write: Writes the DICOM files into the folder it is given.

        Raises:
            CfmriError: The objects cannot be written.
        """
        work = Path(tempfile.mkdtemp(prefix=".part-", dir=self._waiting))
        try:
            write(work / "dicom")
            files = sorted((work / "dicom").glob("*.dcm"))
            uid = str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID)
            entry = {"id": uid, "kind": kind, "image": image_id, "objects": len(files), "created": _now()}
            (work / "entry.json").write_text(json_text(entry), encoding="utf-8")
            for file in (*files, work / "entry.json"):
                flush(file)
            self._trouble.pop(uid, None)  # whoever asks again does not wait for the next try
            try:
                os.replace(work, self._waiting / uid)
                flush(self._waiting)
            except OSError:  # a folder that holds something is not replaced
                if not (self._waiting / uid).is_dir():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._wake.set()
        return uid

    def uploads(self) -> list[dict[str, Any]]:
        """Return what waits, and the newest of what was stored: id, kind, image, objects, state, attempts, error."""
        waiting = [self._status(entry) for entry in _entries(self._waiting, "*/entry.json")]
        stored = sorted(_entries(self._done, "*.json"), key=lambda entry: str(entry["stored"]), reverse=True)
        ids = {entry["id"] for entry in waiting}
        done = [{**entry, "state": STORED, "error": None} for entry in stored[:_TOLD] if entry["id"] not in ids]
        return waiting + done

    def clear(self) -> None:
        """Remove what a server that was killed left unfinished; to be called before anything is added."""
        for leftover in self._waiting.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def try_again(self) -> None:
        """Try at once what waits for an archive that was away."""
        for trouble in list(self._trouble.values()):
            if not trouble.is_refusal:
                trouble.next_try_s = 0.0
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Send what is due, until stopped. One thread of one process may do so."""
        while not stop.is_set():
            for entry in _entries(self._waiting, "*/entry.json"):
                trouble = self._trouble.get(entry["id"])
                if not stop.is_set() and (trouble is None or trouble.next_try_s <= time.monotonic()):
                    self._send(entry)
            self._wake.wait(_LOOK_EVERY_S)
            self._wake.clear()

    def _send(self, entry: dict[str, Any]) -> None:
        uid, attempts = entry["id"], self._attempts(entry["id"]) + 1
        folder = self._waiting / uid
        try:
            self._store(sorted((folder / "dicom").glob("*.dcm")))
        except Exception as error:  # this thread must survive whatever one upload does
            self._note_trouble(uid, attempts, error)
            return
        self._trouble.pop(uid, None)
        write_text(self._done / f"{uid}.json", json_text({**entry, "stored": _now(), "attempts": attempts}))
        gone = folder.with_name(f".stored-{uid}")
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
        logger.info("Stored a %s of %d objects in the archive", entry["kind"], entry["objects"])

    def _note_trouble(self, uid: str, attempts: int, error: Exception) -> None:
        known = error if isinstance(error, CfmriError) else CfmriError(f"Unexpected {type(error).__name__}.")
        trouble = _Trouble(known, attempts, 0.0)
        growing_s = min(_FIRST_PAUSE_S * 2 ** (attempts - 1), _LONGEST_PAUSE_S)
        pause_s = _LONGEST_PAUSE_S if trouble.is_refusal else max(growing_s, getattr(known, "retry_after_s", 0.0))
        trouble.next_try_s = time.monotonic() + pause_s
        self._trouble[uid] = trouble
        logger.warning("An upload is to be tried again in %.0f s: %s", pause_s, type(error).__name__)

    def _attempts(self, uid: str) -> int:
        trouble = self._trouble.get(uid)
        return trouble.attempts if trouble else 0

    def _status(self, entry: dict[str, Any]) -> dict[str, Any]:
        trouble = self._trouble.get(entry["id"])
        if trouble is None:
            return {**entry, "state": PENDING, "attempts": 0, "error": None}
        state = FAILED if trouble.is_refusal else PENDING
        return {**entry, "state": state, "attempts": trouble.attempts, "error": detail_of(trouble.error)}


def _entries(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """Return the entries of a folder, oldest first; one that goes meanwhile is left out."""
    entries = []
    for file in folder.glob(pattern):
        if file.relative_to(folder).parts[0].startswith("."):
            continue
        try:
            entries.append(json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
    return sorted(entries, key=lambda entry: str(entry["created"]))


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="milliseconds")
