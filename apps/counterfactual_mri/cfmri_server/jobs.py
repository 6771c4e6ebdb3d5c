"""The queue every inference goes through: bounded, one at a time per model, with progress and cancel."""

from __future__ import annotations

import logging
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfmri_core.errors import Cancelled, CfmriError, ResourceError
from cfmri_core.progress import Progress
from cfmri_server.problem import BusyError, NotFoundError, detail_of

logger = logging.getLogger("cfmri.jobs")

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"


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


Work = Callable[[Path, Progress], Outcome]


@dataclass
class Job:
    """One inference, from the moment it is accepted.

    Attributes:
        id: Random id.
        model: Name of the model.
        folder: Private folder with the upload and the result.
        finished: Resolves when the job is in a final state.
    """

    id: str
    model: str
    folder: Path
    state: str = QUEUED
    step: int = 0
    steps: int = 0
    message: str = ""
    error: CfmriError | None = None
    outcome: Outcome | None = None
    created_s: float = field(default_factory=time.monotonic)
    ended_s: float | None = None
    finished: Future[None] = field(default_factory=Future)
    cancel_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in (DONE, FAILED, CANCELLED)

    def status(self) -> dict[str, Any]:
        """Return the body of ``GET /jobs/{id}``."""
        elapsed_s = (self.ended_s or time.monotonic()) - self.created_s
        return {
            "id": self.id,
            "model": self.model,
            "state": self.state,
            "step": self.step,
            "steps": self.steps,
            "elapsed_s": round(elapsed_s, 3),
            "message": self.message,
            "error": detail_of(self.error) if self.error else None,
        }

    def progress(self, step: int, total: int, message: str) -> None:
        """Take a report from the work; raise `Cancelled` if a client asked for that."""
        if self.cancel_asked.is_set():
            raise Cancelled("The job was cancelled.")
        self.step, self.steps, self.message = step, total, message


class JobQueue:
    """Accepts work, runs it one at a time per model, and keeps the newest results.

    Args:
        root: Folder below which each job gets its own.
        limit: Most jobs that wait or run at once.
        keep: Most finished jobs kept.
        keep_bytes: Most disk space of finished jobs kept.
        keep_s: Longest time a finished job is kept.
    """

    def __init__(
        self, root: Path, *, limit: int = 16, keep: int = 32, keep_bytes: int = 4 * 2**30, keep_s: float = 3600.0
    ) -> None:
        self._root = root
        self._limit, self._keep, self._keep_bytes, self._keep_s = limit, keep, keep_bytes, keep_s
        self._jobs: dict[str, Job] = {}
        self._workers: dict[str, ThreadPoolExecutor] = {}
        self._lock = threading.Lock()

    def open(self, model: str) -> Job:
        """Register a job and make its folder, so that its input can be written there.

        Raises:
            BusyError: Too many jobs wait or run already.
        """
        self._forget_old()
        with self._lock:
            if sum(not job.is_final for job in self._jobs.values()) >= self._limit:
                raise BusyError(f"{self._limit} jobs wait or run already.", "Try again in a few seconds.")
            job_id = uuid.uuid4().hex
            job = Job(job_id, model, self._root / job_id)
            self._jobs[job_id] = job
        job.folder.mkdir(parents=True, mode=0o700)
        return job

    def start(self, job: Job, work: Work) -> None:
        """Queue an opened job's work."""
        with self._lock:
            worker = self._workers.setdefault(job.model, ThreadPoolExecutor(1, thread_name_prefix=f"infer-{job.model}"))
        worker.submit(self._run, job, work)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: There is none of that id (any more).
        """
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None:
            hint = "Finished jobs are kept for a while only."
            raise NotFoundError("There is no such job.", hint, field="id", value=job_id)
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop: at once if it waits, at its next step if it runs."""
        job.cancel_asked.set()
        with self._lock:
            waits = job.state == QUEUED
        if waits:
            self._end(job, CANCELLED)

    def forget(self, job: Job) -> None:
        """Drop a finished job and its files."""
        with self._lock:
            self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self, job: Job, work: Work) -> None:
        with self._lock:
            if job.is_final:
                return
            job.state = RUNNING
        try:
            job.outcome = work(job.folder, job.progress)
        except Cancelled:
            self._end(job, CANCELLED)
        except Exception as error:  # a worker must survive whatever one job does
            job.error = typed(error)
            self._end(job, FAILED)
        else:
            self._end(job, DONE)

    def _end(self, job: Job, state: str) -> None:
        with self._lock:
            if job.is_final:
                return
            job.state, job.ended_s = state, time.monotonic()
        logger.info("%s %s after %.1f s", job.model, state, job.ended_s - job.created_s)
        job.finished.set_result(None)

    def _forget_old(self) -> None:
        with self._lock:
            final = sorted((job for job in self._jobs.values() if job.is_final), key=lambda job: -(job.ended_s or 0.0))
        kept_bytes = 0
        for position, job in enumerate(final):
            kept_bytes += sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
            age_s = time.monotonic() - (job.ended_s or 0.0)
            if position >= self._keep or kept_bytes > self._keep_bytes or age_s > self._keep_s:
                self.forget(job)


def typed(error: Exception) -> CfmriError:
    """Return the typed error to report for whatever a job raised; log where it came from, never its text."""
    if isinstance(error, CfmriError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return ResourceError("Memory ran out.", "Ask for fewer slices, or use another device.")
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("A job failed with %s\n%s", type(error).__name__, frames)
    return CfmriError(f"The work failed unexpectedly ({type(error).__name__}).", "The server's log says where.")
