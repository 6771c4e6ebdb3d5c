"""One job at a time, shown by a progress bar and a label."""

from __future__ import annotations

from typing import Any, Callable

from CounterfactualMRILib import jobs
from CounterfactualMRILib.jobs import Job

#: More steps than a progress bar has pixels are not told apart.
_FINEST = 1000


class JobDisplay:
    """Shows the progress of a job, and its outcome when it has ended.

    Args:
        bar: Progress bar; visible while a job runs, moving to and fro while the number of steps is unknown. ``None``
            for short work.
        label: Where progress and outcome are written, unless `watch` names another label.
    """

    def __init__(self, bar, label) -> None:
        self._bar, self._ownLabel, self._label = bar, label, label
        self._onDone: Callable[[Any], str] = lambda result: ""  # noqa: ARG005
        self.job: Job | None = None

    @property
    def isBusy(self) -> bool:
        """Whether a job is shown."""
        return self.job is not None

    def watch(self, job: Job, onDone: Callable[[Any], str], label=None) -> None:
        """Show a job; when it is done, ``onDone(result)`` says what to write."""
        self.job, self._onDone, self._label = job, onDone, label or self._ownLabel
        self.update()

    def say(self, text: str, label=None) -> None:
        """Write something that is not about a job."""
        (label or self._ownLabel).text = text

    def cancel(self) -> None:
        """Cancel the job, if there is one."""
        if self.job is not None:
            self.job.cancel()

    def update(self) -> bool:
        """Show the job's present state; return whether it has ended since the last call."""
        if self.job is None:
            return False
        job, isRunning = self.job, self.job.state == jobs.RUNNING
        if self._bar is not None:
            self._bar.visible = isRunning
            self._bar.maximum = min(job.steps, _FINEST)  # steps may be bytes, of which a bar counts 2 GiB at most
            self._bar.value = job.step * self._bar.maximum // (job.steps or 1)
        self._label.text = f"{job.message} ({job.elapsedS:.0f} s)" if isRunning else job.message
        if isRunning:
            return False
        self.job = None
        if job.state == jobs.DONE:
            self._label.text = self._onDone(job.result)
        return True
