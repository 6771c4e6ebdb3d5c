"""One piece of background work: a worker thread reports, the main thread looks. No Slicer, no Qt.

The worker only makes HTTP requests and writes files. Whatever touches the scene runs in `Job.poll`,
which the panel's timer (or a script) calls on the main thread. A job that was cancelled has ended for
the user at once; what its worker still brings is dropped.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Any, Callable

from CounterfactualMRILib.problems import Cancelled, Problem

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"

#: work(report, isCancelled) -> result; report(step, steps, message, detail=None)
Work = Callable[[Callable[..., None], Callable[[], bool]], Any]


def startDaemonThread(target: Callable[[], None]) -> None:
    """Run ``target`` in a thread that does not keep the application from closing."""
    threading.Thread(target=target, name="CounterfactualMRI worker", daemon=True).start()


class Job:
    """Work in the background, watched from the main thread.

    Args:
        title: What it does, for people ("Generating the counterfactual").
        work: Runs in the worker thread.
        finish: Runs on the main thread with the work's result; what it returns is the job's result.
        cleanup: Runs once in the worker thread when the work has ended, whatever the outcome: deleting files of tens of
            megabytes would hold up the interface.
        clock: Seconds; for tests.
        spawn: Starts the worker; for tests.

    Attributes:
        state: One of the constants of this module.
        error: What went wrong when the state is FAILED.
        result: What ``finish`` returned when the state is DONE.
        step: Steps done.
        steps: Steps in all, 0 while unknown.
        message: What is going on.
        detail: What the worker reported besides, last; ``None`` if it reports nothing.
        isOver: Whether the worker has ended and everything is cleaned up.
    """

    def __init__(
        self,
        title: str,
        work: Work,
        finish: Callable[[Any], Any] = lambda result: result,
        cleanup: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[Callable[[], None]], None] = startDaemonThread,
    ) -> None:
        self.title = title
        self.state = WAITING
        self.error: Exception | None = None
        self.result: Any = None
        self.step, self.steps, self.message = 0, 0, title
        self.detail: Any = None
        self.isOver = False
        self._work, self._finish, self._cleanup = work, finish, cleanup
        self._clock, self._spawn = clock, spawn
        self._events: queue.Queue = queue.Queue()
        self._cancelRequested = threading.Event()
        self._startedAt = self._endedAt = clock()

    @property
    def elapsedS(self) -> float:
        """Seconds since the start, until the end."""
        return (self._clock() if self.state == RUNNING else self._endedAt) - self._startedAt

    def start(self) -> Job:
        """Start the worker."""
        if self.state != WAITING:
            raise RuntimeError(f"The job '{self.title}' was started before.")
        self.state = RUNNING
        self._startedAt = self._clock()
        self._spawn(self._runWorker)
        return self

    def cancel(self) -> None:
        """Let go of the work: the job is cancelled now, the worker stops as soon as it can."""
        if self.state == RUNNING:
            self._cancelRequested.set()
            self._end(CANCELLED, "Cancelled")

    def poll(self) -> bool:
        """Take over what the worker reported since the last call. Main thread only.

        Returns:
            Whether anything changed.
        """
        before = (self.state, self.step, self.steps, self.message, self.isOver)
        while not self.isOver:
            try:
                kind, value = self._events.get_nowait()
            except queue.Empty:
                break
            self._take(kind, value)
        return before != (self.state, self.step, self.steps, self.message, self.isOver)

    def wait(self, onProgress: Callable[[Job], None] | None = None, intervalS: float = 0.02) -> Any:
        """Block until the job has ended and return its result.

        Raises:
            Cancelled: It was cancelled (by ``onProgress``).
            Exception: What made it fail.
        """
        while self.state == RUNNING:
            if self.poll() and onProgress is not None:
                onProgress(self)
            time.sleep(intervalS)
        if self.state == CANCELLED:
            raise Cancelled
        if self.error is not None:
            raise self.error
        return self.result

    def _take(self, kind: str, value: Any) -> None:
        if kind == "progress":
            if self.state == RUNNING:
                self.step, self.steps, self.message, self.detail = value
            return
        try:
            if self.state == RUNNING:
                self._takeOutcome(kind, value)
        finally:
            self.isOver = True

    def _takeOutcome(self, kind: str, value: Any) -> None:
        if kind == "result":
            try:
                self.result = self._finish(value)
            except Exception as error:  # the scene's side of the work: reported like the server's side
                kind, value = "failure", error
        if kind == "failure":
            if not isinstance(value, (Problem, Cancelled)):
                logging.error("%s failed unexpectedly", self.title, exc_info=value)
            self.error = value
            self._end(CANCELLED if isinstance(value, Cancelled) else FAILED, str(value))
        else:
            self._end(DONE, "Done")

    def _end(self, state: str, message: str) -> None:
        self.state, self.message = state, message
        self._endedAt = self._clock()

    def _runWorker(self) -> None:
        def report(step: int, steps: int, message: str, detail: Any = None) -> None:
            self._events.put(("progress", (step, steps, message, detail)))

        try:
            outcome = ("result", self._work(report, self._cancelRequested.is_set))
        except Exception as error:  # a worker's failure belongs to the main thread
            outcome = ("failure", error)
        try:
            self._cleanup()
        finally:
            self._events.put(outcome)
