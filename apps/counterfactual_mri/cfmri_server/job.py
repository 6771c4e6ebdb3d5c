"""One inference: its state while the server runs, and the record beside its result that outlives the server.

A record holds no image id, no file name and no path, only what the model computed and how that went.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfmri_core.errors import Cancelled, CfmriError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text
from cfmri_server.problem import detail_of

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
_FINAL = (DONE, FAILED, CANCELLED)

_RECORD = "job.json"


class StoppedError(CfmriError):
    """The server was stopped before the job was done."""

    http_status = 503


@dataclass(frozen=True)
class Outcome:
    """What a finished inference left.

    Attributes:
        image: Result image inside the job's folder, or ``None``.
        report: The JSON part of the answer.
        further: Images beside the result, by the name of their part of the answer.
    """

    image: Path | None
    report: dict[str, Any]
    further: Mapping[str, Path] = field(default_factory=dict)

    def images(self) -> dict[str, Path]:
        """Return all images by the name of their part of the answer."""
        return {} if self.image is None else {"image": self.image, **self.further}


@dataclass(frozen=True)
class Failure:
    """Why a job failed. Not the error itself: that would keep the frames it passed through, and their tensors.

    Attributes:
        status: HTTP status.
        detail: The ``detail`` of the answer.
    """

    status: int
    detail: dict[str, Any]

    @classmethod
    def of(cls, error: CfmriError) -> Failure:
        """Return what a client is told of an error."""
        return cls(error.http_status, detail_of(error))


def _unstoppable() -> Future[None]:
    """Return a future that those who wait for it cannot cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


STOPPED = Failure.of(StoppedError("The server was stopped.", "Ask again."))


@dataclass
class Job:
    """One inference, from the moment it is accepted.

    Attributes:
        id: Random id.
        model: Name of the model.
        folder: Private folder with the upload, the result and the record.
        device: Torch device it runs on.
        is_lasting: Whether its result is kept for later; else it is dropped once it was returned.
        ended_at: Time of day at which it ended, in seconds since 1970; 0 before.
        stored_bytes: Disk space of what it left.
        finished: Resolves when the job is in a final state.
    """

    id: str
    model: str
    folder: Path
    device: str = "cpu"
    is_lasting: bool = True
    state: str = QUEUED
    step: int = 0
    steps: int = 0
    message: str = ""
    failure: Failure | None = None
    outcome: Outcome | None = None
    started_s: float = field(default_factory=time.monotonic)
    elapsed_s: float | None = None
    ended_at: float = 0.0
    stored_bytes: int = 0
    finished: Future[None] = field(default_factory=_unstoppable)
    cancel_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in _FINAL

    def status(self) -> dict[str, Any]:
        """Return the body of ``GET /jobs/{id}``."""
        elapsed_s = time.monotonic() - self.started_s if self.elapsed_s is None else self.elapsed_s
        return {
            "id": self.id,
            "model": self.model,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "elapsed_s": round(elapsed_s, 3),
            "message": self.message,
            "error": self.failure.detail if self.failure else None,
        }

    def progress(self, step: int, total: int, message: str) -> None:
        """Take a report from the work; raise `Cancelled` if a client asked for that."""
        if self.cancel_asked.is_set():
            raise Cancelled("The job was cancelled.")
        self.step, self.steps, self.message = step, total, message

    def end(self, state: str, outcome: Outcome | None = None, failure: Failure | None = None) -> None:
        """Take the final state, once all that a client can then ask for is on disk: first the files, then the word."""
        self.elapsed_s, self.ended_at = time.monotonic() - self.started_s, time.time()
        self.outcome, self.failure = outcome, failure
        try:
            self._drop_files()
            if self.is_lasting:
                self.write_record(state)
        finally:  # without a record the result lasts as long as the server
            self.state = state
            self.finished.set_result(None)

    def write_record(self, state: str) -> None:
        """Write the job into its folder.

        Raises:
            ResourceError: The disk is full or cannot be written.
        """
        record: dict[str, Any] = {name: getattr(self, name) for name in ("model", "step", "steps", "message")}
        record |= {"state": state, "elapsed_s": self.elapsed_s, "ended_at": self.ended_at, "failure": self.failure}
        if self.outcome is not None:
            images = {name: path.name for name, path in self.outcome.images().items()}
            record |= {"images": images, "report": self.outcome.report}
        write_text(self.folder / _RECORD, json_text(record, indent=None))

    @classmethod
    def read(cls, folder: Path) -> Job | None:
        """Take up what a server that was stopped left in a job's folder; ``None`` where nothing can be told of it.

        A job that was not done has failed.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            job = cls._of_record(folder, record)
            job._drop_files()
            if not record["ended_at"]:
                job.end(FAILED, failure=STOPPED)
        except (OSError, ValueError, KeyError, TypeError, CfmriError):
            return None
        return job

    @classmethod
    def _of_record(cls, folder: Path, record: dict[str, Any]) -> Job:
        known = {name: record[name] for name in ("model", "step", "steps", "message", "ended_at", "elapsed_s")}
        job = cls(folder.name, folder=folder, **known)
        if not job.ended_at:
            return job
        job.state = record["state"]
        job.failure = Failure(**record["failure"]) if record["failure"] else None
        if job.state == DONE:
            images = {name: folder / Path(written).name for name, written in record["images"].items()}
            if not all(image.is_file() for image in images.values()):
                raise FileNotFoundError
            job.outcome = Outcome(images.pop("image", None), record["report"], images)
        if not job.is_final:
            raise ValueError(job.state)
        job.finished.set_result(None)
        return job

    def _drop_files(self) -> None:
        """Remove the upload and whatever else is neither result nor record; count what is left."""
        images = self.outcome.images().values() if self.outcome else ()
        self.stored_bytes = 0
        for path in self.folder.iterdir():
            if path.name == _RECORD or path in images:
                self.stored_bytes += path.stat().st_size
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, the record first: what is left of a removal that was interrupted is no job any more."""
        (self.folder / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
