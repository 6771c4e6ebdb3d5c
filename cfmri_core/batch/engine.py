"""Run a batch: plan it into the ledger, hand items to workers, note what becomes of them, write the report.

A worker holds one item, from reading to writing, so that killing it costs one item. Reading, editing and writing
overlap because several workers share a device: one has it while others read and write. Their number bounds what is in
memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from cfmri_core import __version__
from cfmri_core.archive.index import SeriesEntry
from cfmri_core.batch.edits_file import Edit, signature
from cfmri_core.batch.item import Job, Outcome, Task
from cfmri_core.batch.ledger import MOST_CRASHES, Ledger, State
from cfmri_core.errors import Cancelled, CheckpointError, RequestError
from cfmri_core.io.atomic import write_text
from cfmri_core.io.json_text import json_text, plain
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.scanners import identity_of
from cfmri_core.pipeline.method import METHODS
from cfmri_core.progress import Progress, silent

#: Items of each edit whose pictures the report shows.
PICTURES_PER_EDIT = 2
#: A crash of a worker says no more than this.
_CRASHED = "Its worker ended {} times while it had this item in hand."
_PART = ".part-*"


@dataclass(frozen=True)
class Standing:
    """How far a batch is.

    Attributes:
        counts: Items by state.
        items_per_s: Items ended per second in this run; 0 before the first.
    """

    counts: Mapping[State, int]
    items_per_s: float

    @property
    def total(self) -> int:
        """All items."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """Items that are done, refused or failed."""
        return sum(self.counts[state] for state in (State.DONE, State.REFUSED, State.FAILED))

    @property
    def remaining_s(self) -> float | None:
        """Seconds to go at the present rate; ``None`` if it is not known."""
        return (self.total - self.ended) / self.items_per_s if self.items_per_s else None


class Work(Protocol):
    """What an executor is given: items to hand out, and where to say what became of them."""

    def take(self) -> Task | None:
        """Return the next item, ``None`` if there is none now."""
        ...

    def finish(self, task: Task, outcome: Outcome) -> None:
        """Note what an item came to."""
        ...

    def give_back(self, task: Task, *, crashed: bool) -> None:
        """Note that an item was not finished."""
        ...

    @property
    def is_stopping(self) -> bool:
        """Whether no further item is to be begun; those begun are waited for."""
        ...


#: Runs items until there are none. It raises `ResourceError` where no item could succeed.
Executor = Callable[[Job, Work, int], None]


class Batch:
    """Edits of an archive.

    Args:
        job: What the workers know.
        edits: What is wanted.
    """

    def __init__(self, job: Job, edits: Sequence[Edit]) -> None:
        self._job, self._edits = job, edits

    def entries(self, progress: Progress = silent) -> Generator[SeriesEntry, None, None]:
        """Return every series of the archive, used or not."""
        return self._job.source.entries(progress)

    def items(self, entry: SeriesEntry) -> list[Edit]:
        """Return the edits that are wanted of a series."""
        return [edit for edit in self._edits if edit.selects(entry)]

    def signature(self) -> dict[str, str]:
        """Return what decides the results: a digest of the edits, and the models' checksums.

        Raises:
            CheckpointError: There is no model for an edit.
        """
        editors = {METHODS[edit.request.method].model for edit in self._edits}
        models = {kind: identity_of(locate_model(kind, self._job.models)) for kind in sorted(editors)}
        for kind in ("iap_predictor", "segmenter"):
            with contextlib.suppress(CheckpointError):  # an absent judge is no error
                models[kind] = weights_sha256(locate_model(kind, self._job.models))
        return {"edits": signature(self._edits), "models": json_text(models, indent=None)}

    def run(
        self,
        executor: Executor,
        workers: int,
        *,
        retry_failed: bool = False,
        indexing: Progress = silent,
        standing: Callable[[Standing], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Do everything that is not done yet, then write the report.

        Args:
            executor: Who works.
            workers: How many of them.
            retry_failed: Whether to do failed items again, and those whose series has changed since.
            indexing: Called while the archive is indexed.
            standing: Called after each item.

        Returns:
            The summary, as in ``report.json``.

        Raises:
            RequestError: The output belongs to other edits or models, or another run is at work in it.
            ResourceError: The disk is full, or the output cannot be written; what is done is kept.
            Cancelled: Stopped by a signal; what was begun was finished, and the report written.
        """
        from cfmri_core.batch.batch_report import write_batch_report

        with Ledger(self._job.output, self.signature()) as ledger:
            changed = self._plan(ledger, indexing)
            if retry_failed:
                ledger.retry_failed(changed)
                changed = []
            self._sweep()
            for edit in self._edits:
                if {"nifti", "pairs"} & set(edit.outputs):
                    _describe_dataset(self._job.output / edit.name)
            run = ledger.begin_run(workers)
            work = _LedgerWork(self, ledger, run, standing)
            try:
                with work.stopped_by_signals():
                    executor(self._job, work, workers)
            finally:
                work.close()
                ledger.end_run(run)
                self._sweep()
                summary = write_batch_report(self._job.output, self._edits, ledger.report, changed)
            if work.is_stopping:
                raise Cancelled("Stopped.", "The same command goes on.")
            return summary

    def _plan(self, ledger: Ledger, indexing: Progress) -> list[tuple[str, str]]:
        """Plan, and return what was made from other images than its series holds now, by edit and series."""
        items, left_out = [], []
        for entry in self.entries(indexing):
            wanted = self.items(entry)
            items += [(edit.name, entry.key, entry.content) for edit in wanted]
            if entry.refusal is not None and not wanted:
                left_out.append((entry.key, str(entry.reason), entry.refusal))
        return ledger.plan(items, left_out)

    def _sweep(self) -> None:
        """Remove what killed workers left half written; nobody else writes here while the ledger is open."""
        for place in (self._job.output, *(self._job.output / edit.name for edit in self._edits)):
            for partial in place.glob(_PART):
                shutil.rmtree(partial, ignore_errors=True)


class _LedgerWork:
    """Items of a run in the archive's order, kept by the ledger; implements `Work`.

    Args:
        batch: The batch.
        ledger: Its ledger.
        run: Number of the run.
        standing: Called after each item.
    """

    def __init__(self, batch: Batch, ledger: Ledger, run: int, standing: Callable[[Standing], None]) -> None:
        self._ledger, self._run, self._standing = ledger, run, standing
        self._fresh = self._tasks(batch)
        self._again: deque[Task] = deque()
        # Last: whatever ends workers shall not do so before all else is made.
        self._suspects = ledger.suspects()
        self._counts = ledger.report.counts()
        self._began, self._ended = time.monotonic(), 0
        self.is_stopping = False

    def take(self) -> Task | None:
        if self.is_stopping:
            return None
        for task in self._fresh:
            if (task.edit.name, task.entry.key) in self._suspects:
                self._again.append(task)
            elif self._ledger.start(task.edit.name, task.entry.key):
                return task
        while self._again:
            task = self._again.popleft()
            if self._ledger.start(task.edit.name, task.entry.key):
                return task
        return None

    def finish(self, task: Task, outcome: Outcome) -> None:
        self._ledger.finish(task.edit.name, task.entry.key, self._run, outcome.state, plain(outcome))
        self._counts[State.TODO] -= 1
        self._counts[outcome.state] += 1
        self._ended += 1
        self._standing(Standing(dict(self._counts), self._ended / max(time.monotonic() - self._began, 1e-9)))

    def give_back(self, task: Task, *, crashed: bool) -> None:
        # Who stops the batch may have ended the worker as well.
        is_to_blame = crashed and not self.is_stopping
        crashes = self._ledger.give_back(task.edit.name, task.entry.key, crashed=is_to_blame)
        if crashes >= MOST_CRASHES:
            self.finish(task, Outcome(state=State.FAILED, reason=_CRASHED.format(crashes)))
        else:
            self._again.append(task)

    def close(self) -> None:
        """Let go of the index."""
        self._fresh.close()

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Begin no further item after Ctrl-C or a request to end; a second one ends at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            del frame
            self.is_stopping = True
            signal.signal(number, signal.default_int_handler)

        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(number, stop) for number in numbers]
        except ValueError:  # not the main thread: signals go elsewhere
            yield
            return
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _tasks(self, batch: Batch) -> Generator[Task, None, None]:
        shown: dict[str, int] = {}
        with contextlib.closing(batch.entries()) as entries:
            for entry in entries:
                usable = dataclasses.replace(entry, reason=None, refusal=None)  # where an edit takes synthetic series
                for edit in batch.items(entry):
                    shown[edit.name] = shown.get(edit.name, 0) + 1
                    yield Task(edit, usable, with_pictures=shown[edit.name] <= PICTURES_PER_EDIT)


def _describe_dataset(folder: Path) -> None:
    """Say that a folder is a BIDS derivative, and what in it is not BIDS."""
    description = {
        "Name": "Counterfactual MRI, synthetic, not for diagnosis",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "cfmri", "Version": __version__}],
    }
    write_text(folder / "dataset_description.json", json_text(description) + "\n")
    write_text(folder / ".bidsignore", "sub-*/dicom*/\nsub-*/seg*/\nsub-*/outcome.json\nsub-*/anat/*_evidence.json\n")


def index_cache(root: Path, output: Path, folder: Path) -> Path:
    """Return where the index of an archive is kept for one batch: in a private folder, as it holds paths."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    named = hashlib.sha256("\n".join(map(str, (root.resolve(), output.resolve()))).encode()).hexdigest()[:16]
    return folder / f"batch-{named}.sqlite"


def require_apart(root: Path, output: Path) -> None:
    """Refuse an output inside the archive: the next run would take results for scans."""
    if output.resolve().is_relative_to(root.resolve()):
        raise RequestError(f"{output} lies inside the archive {root}.", "Choose an output folder elsewhere.")
