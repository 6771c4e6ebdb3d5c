"""The queue every inference goes through: bounded, in order, one at a time per model and per GPU.

What finished is kept for a while, also over a restart of the server, see `cfmri_server.job`.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cfmri_core.errors import Cancelled, CfmriError, ResourceError
from cfmri_core.models.batches import free_caches, is_out_of_memory
from cfmri_core.progress import Progress
from cfmri_server.job import CANCELLED, DONE, FAILED, RUNNING, STOPPED, Failure, Job, Outcome, StoppedError
from cfmri_server.problem import BusyError, NotFoundError

logger = logging.getLogger("cfmri.jobs")

Work = Callable[[Path, Progress], Outcome]

#: Jobs that run at once on the processor. Each uses all cores: more would only delay each other, and the server.
MOST_ON_PROCESSOR = 2

#: When a client that was turned away may try again, in seconds: about as long as a small edit takes.
_RETRY_AFTER_S = 2
_ID = re.compile(r"[0-9a-f]{32}")


class JobQueue:
    """Accepts work, runs it in order, and keeps the newest results.

    A job starts when its model and its device are free; it takes both at once or neither, under the queue's own
    lock. So no job holds one and waits for the other, a job that waits can be cancelled at once, and the first that
    can start does. Inside its work it may then take the lock of a model that is being read (`LoadedModel`). Whoever
    holds the queue's lock takes no other lock and touches no disk.

    Args:
        root: Folder below which each job gets its own; what an earlier server left there is taken up.
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
        self._waiting: dict[str, tuple[Job, Work]] = {}
        self._running: dict[str, Job] = {}
        self._workers = ThreadPoolExecutor(limit, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._jobs = {job.id: job for job in _left_by_earlier_server(root)}
        self.forget_old()

    def open(self, model: str, device: str = "cpu", *, is_lasting: bool = True) -> Job:
        """Register a job and make its folder, so that its input can be written there.

        Raises:
            BusyError: Too many jobs wait or run already.
            StoppedError: The server is being stopped.
        """
        self.forget_old()
        job_id = uuid.uuid4().hex
        job = Job(job_id, model, self._root / job_id, device, is_lasting)
        with self._lock:
            if self._closed.is_set():
                raise StoppedError("The server is being stopped.", "Ask again once it runs.")
            if sum(not other.is_final for other in self._jobs.values()) >= self._limit:
                message = f"{self._limit} jobs wait or run already."
                raise BusyError(message, "Try again in a few seconds.", retry_after_s=_RETRY_AFTER_S)
            self._jobs[job_id] = job
        try:
            job.folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            self.forget(job)
            raise _unwritable() from error
        return job

    def start(self, job: Job, work: Work) -> None:
        """Queue an opened job's work.

        Raises:
            ResourceError: The disk is full or cannot be written.
        """
        try:
            if job.is_lasting:
                job.write_record(job.state)
        except ResourceError as error:  # which names the folder
            raise _unwritable() from error
        with self._lock:
            if not self._closed.is_set():
                self._waiting[job.id] = (job, work)
                self._start_waiting()
                return
        self._end(job, FAILED, failure=STOPPED)

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
            waits = self._waiting.pop(job.id, None) is not None
        if waits:  # whoever takes a job out of the line ends it, and nobody else
            self._end(job, CANCELLED)

    def forget(self, job: Job) -> None:
        """Drop a job and its files; one that is not finished is cancelled, and dropped when it has stopped."""
        self.cancel(job)
        job.is_lasting = False
        with self._lock:
            runs = job.id in self._running and not job.is_final
            if not runs:
                self._jobs.pop(job.id, None)
        if runs:
            job.finished.add_done_callback(lambda _: self.forget(job))
        else:
            job.remove()

    def forget_old(self) -> None:
        """Drop the finished jobs that are too old or too many."""
        with self._lock:
            final = [job for job in self._jobs.values() if job.is_final and job.is_lasting]
        kept_bytes, now = 0, time.time()
        for position, job in enumerate(sorted(final, key=lambda job: -job.ended_at)):
            kept_bytes += job.stored_bytes
            if position >= self._keep or kept_bytes > self._keep_bytes or now - job.ended_at > self._keep_s:
                self.forget(job)

    def watch_age(self, every_s: float) -> None:
        """Drop what becomes too old, until the queue is closed; for a thread of its own."""
        while not self._closed.wait(every_s):
            self.forget_old()

    def close(self) -> None:
        """Take nothing more, fail what waits, and stop what runs at its next step."""
        with self._lock:
            self._closed.set()
            waiting = [job for job, _ in self._waiting.values()]
            self._waiting.clear()
            for job in self._running.values():
                job.cancel_asked.set()
        for job in waiting:
            self._end(job, FAILED, failure=STOPPED)
        self._workers.shutdown(wait=False)

    def _start_waiting(self) -> None:
        """Start what can start, in order; called with the lock held."""
        for job, work in list(self._waiting.values()):
            models = [other.model for other in self._running.values()]
            on_device = sum(other.device == job.device for other in self._running.values())
            if job.model not in models and on_device < (MOST_ON_PROCESSOR if job.device == "cpu" else 1):
                del self._waiting[job.id]
                self._running[job.id] = job
                job.state = RUNNING
                self._workers.submit(self._run, job, work)

    def _run(self, job: Job, work: Work) -> None:
        try:
            self._end(job, *self._done(job, work))
        finally:
            with self._lock:
                del self._running[job.id]
                if not self._closed.is_set():
                    self._start_waiting()

    def _done(self, job: Job, work: Work) -> tuple[str, Outcome | None, Failure | None]:
        """Do a job's work; return its final state, with the outcome or why there is none."""
        try:
            outcome = work(job.folder, job.progress)
        except Cancelled:
            return (FAILED, None, STOPPED) if self._closed.is_set() else (CANCELLED, None, None)
        except Exception as error:  # a worker must survive whatever one job does
            failure = Failure.of(typed(error))
        else:
            # A client's cancel is honoured after the last step, too; what is done when the server stops is kept.
            is_unwanted = job.cancel_asked.is_set() and not self._closed.is_set()
            return (CANCELLED, None, None) if is_unwanted else (DONE, outcome, None)
        if failure.status == ResourceError.http_status:
            free_caches()
        return FAILED, None, failure

    def _end(self, job: Job, state: str, outcome: Outcome | None = None, failure: Failure | None = None) -> None:
        try:
            job.end(state, outcome, failure)
        except (CfmriError, OSError) as error:
            logger.warning("A finished job could not be written down (%s).", type(error).__name__)
        logger.info("%s %s after %.1f s", job.model, state, job.elapsed_s)


def _left_by_earlier_server(root: Path) -> list[Job]:
    """Take up the finished jobs below a folder, and remove everything else there."""
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    jobs = []
    for path in root.iterdir():
        job = Job.read(path) if _ID.fullmatch(path.name) else None
        if job is not None:
            jobs.append(job)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return jobs


def _unwritable() -> ResourceError:
    return ResourceError("The disk is full or cannot be written.", "Make room on the server, then try again.")


def typed(error: Exception) -> CfmriError:
    """Return the typed error to report for whatever a job raised; log where it came from, never its text."""
    if isinstance(error, CfmriError):
        return error
    if is_out_of_memory(error):
        return ResourceError("Memory ran out.", "Ask for fewer slices, or use another device.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _unwritable()
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("A job failed with %s\n%s", type(error).__name__, frames)
    return CfmriError(f"The work failed unexpectedly ({type(error).__name__}).", "The server's log says where.")
