"""One item of a batch, an edit of one series: read, edit and judge, write; the same result wherever it is made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cfmri_core.archive.index import SeriesEntry
from cfmri_core.batch.edits_file import Edit
from cfmri_core.batch.ledger import State
from cfmri_core.batch.source import Source
from cfmri_core.errors import CfmriError, CheckpointError, RefusedError, RequestError, ResourceError
from cfmri_core.io.atomic import atomic_folder, write_text
from cfmri_core.io.json_text import json_text, plain
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.io.scan import Scan, read_scan, write_counterfactual, write_labels
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.method import AnyEditor, load_editor
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.pipeline.trust import Trust
from cfmri_core.pipeline.trusted_edit import editor_folder, load_trust, trusted_edit

#: Written last into every item's folder.
OUTCOME_NAME = "outcome.json"
STAGES = ("read", "device", "write")
#: Verdicts of each counterfactual: on source and request, and on the result.
JUDGES = ("support", "acceptance")
#: In their place: not asked for, or nothing was written because of `on_refusal: stop`.
NOT_JUDGED, STOPPED = "not judged", "stopped"


@dataclass(frozen=True)
class Job:
    """What every worker of a batch knows.

    Attributes:
        source: Where series come from.
        output: Output folder of the batch.
        models: See `locate_model`.
        devices: Torch devices, shared by the workers in turn.
        threads: Threads of each worker on the CPU.
    """

    source: Source
    output: Path
    models: Path | None
    devices: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Task:
    """One item.

    Attributes:
        edit: What is wanted.
        entry: Of which series.
        with_pictures: Whether the report shows it.
    """

    edit: Edit
    entry: SeriesEntry
    with_pictures: bool = False

    def folder(self, output: Path) -> Path:
        """Return where its results go; the name is that of a BIDS subject and says nothing about the patient."""
        return output / self.edit.name / f"sub-{self.entry.key}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an item came to; JSON-ready, without patient data.

    Attributes:
        state: Done, refused (all of its counterfactuals), or failed.
        reason: Why it was refused or failed.
        results: For each counterfactual ``support`` and ``acceptance`` (verdicts) and ``reasons``.
        seconds: Time by stage, see `STAGES`.
        device: Torch device.
        device_turns: Begin (seconds since the epoch) and duration of each use of the device.
        bytes_written: Size of its folder.
        has_pictures: Whether pictures of it were kept.
        content: What the series held, see `SeriesEntry`; ``None`` in what was made before this was kept.
    """

    state: State
    reason: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    device_turns: tuple[tuple[float, float], ...] = ()
    bytes_written: int = 0
    has_pictures: bool = False
    content: str | None = None


class Models:
    """The models of one worker, each loaded once.

    Args:
        root: See `locate_model`.
        device: Torch device.
    """

    def __init__(self, root: Path | None, device: str) -> None:
        self._root, self.device = root, device
        self._editors: dict[str, tuple[AnyEditor, Trust]] = {}
        self._segmenter: Segmenter | None = None

    def editor(self, method: str) -> tuple[AnyEditor, Trust]:
        """Return the editor of a method and its judges."""
        if method not in self._editors:
            editor = load_editor(method, self._root, self.device)
            trust = load_trust(editor, editor_folder(method, self._root), self._root, self.device)
            self._editors[method] = editor, trust
        return self._editors[method]

    def segmenter(self) -> Segmenter:
        """Return the tissue segmenter."""
        if self._segmenter is None:
            self._segmenter = Segmenter.load(locate_model("segmenter", self._root), self.device)
        return self._segmenter


def make_item(task: Task, job: Job, models: Models) -> Outcome:
    """Make the results of an item, or say why there are none.

    A folder that is complete already is taken over, unless the series held other images when it was made.

    Raises:
        ResourceError: The results cannot be written, or the archive is gone: no other item would succeed.
        CheckpointError: A model cannot be loaded, likewise.
    """
    folder = task.folder(job.output)
    kept = _kept(folder, task.entry.content)
    if kept is not None:
        return kept
    making = _Making(task, models)
    try:
        making.read(job)
        with atomic_folder(folder) as partial:
            making.write_all(partial)
            outcome = making.outcome(State.DONE)
            write_text(partial / OUTCOME_NAME, json_text({**plain(outcome), "pictures": making.pictures}))
    except RefusedError as error:
        return making.outcome(State.REFUSED, error.message)
    except (ResourceError, CheckpointError):
        raise
    except CfmriError as error:
        if not making.has_read and not job.source.is_there():
            raise ResourceError("The archive is gone.", "Bring it back, then give the same command.") from None
        return making.outcome(State.FAILED, f"{type(error).__name__}: {error.message}")
    except (MemoryError, torch.OutOfMemoryError):
        return making.outcome(State.FAILED, "ResourceError: not enough memory for this series.")
    except Exception as error:
        # Its text may quote a header, so only where it arose is told.
        last = traceback.extract_tb(error.__traceback__)[-1]
        return making.outcome(
            State.FAILED, f"Unexpected {type(error).__name__} in {Path(last.filename).name}:{last.lineno}."
        )
    return outcome


def pictures_of(folder: Path) -> list[dict[str, str]]:
    """Return the pictures that were kept of an item: ``uri`` and ``caption`` each."""
    try:
        return list(json.loads((folder / OUTCOME_NAME).read_text(encoding="utf-8"))["pictures"])
    except (OSError, ValueError, KeyError):
        return []


@contextlib.contextmanager
def device_turn(device: str) -> Iterator[None]:
    """Wait for the device, and use it alone among the workers on this machine; a CPU is shared.

    The lock is the operating system's: it ends with the process that holds it, however that ends.
    """
    if not device.startswith("cuda"):
        yield
        return
    import fcntl  # of POSIX only

    name = f"cfmri-{os.getuid()}-{device.replace(':', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Making:
    """An item being made.

    Args:
        task: The item.
        models: Models to use.
    """

    def __init__(self, task: Task, models: Models) -> None:
        self._task, self._models = task, models
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._turns: list[tuple[float, float]] = []
        self._results: list[dict[str, Any]] = []
        self._bytes = 0
        self.has_read = False
        self.pictures: list[dict[str, str]] = []

    def outcome(self, state: State, reason: str = "") -> Outcome:
        """Return what it came to."""
        return Outcome(
            state=state,
            reason=" ".join(reason.split()),
            results=tuple(self._results),
            seconds={stage: round(seconds, 4) for stage, seconds in self._seconds.items()},
            device=self._models.device,
            device_turns=tuple(self._turns),
            bytes_written=self._bytes,
            has_pictures=bool(self.pictures),
            content=self._task.entry.content,
        )

    def read(self, job: Job) -> None:
        """Read the series."""
        with self._timed("read"):
            series = job.source.read(self._task.entry, job.output)
            self._scan = Scan(series.volume, series.acquisition, series)
            self.has_read = True

    def write_all(self, folder: Path) -> None:
        """Make and write every counterfactual.

        Raises:
            RefusedError: All of them were refused.
        """
        edit = self._task.edit
        for repeat in range(edit.per_series):
            try:
                edited = self._edited(repeat)
            except RefusedError as error:
                stopped = dict.fromkeys(JUDGES, STOPPED)
                self._results.append({**stopped, "reasons": [error.message], "written": False})
                continue
            self._results.append(_judgement(edited))
            self._write(folder, edited, f"{repeat + 1}" if edit.per_series > 1 else "")
            if self._task.with_pictures and not self.pictures:
                from cfmri_core.batch.batch_report import pictures  # plots only where they are wanted

                self.pictures = pictures(self._scan.volume, edited.volume)
        if not any(result["written"] for result in self._results):
            raise RefusedError(" ".join(self._results[0]["reasons"]))
        if "pairs" in edit.outputs:
            self._write_scan(folder)
        self._bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def _edited(self, repeat: int) -> Counterfactual:
        edit, scan = self._task.edit, self._scan
        factual = scan.acquisition.parameters
        changes = edit.target(factual, self._task.entry.key, repeat)
        request = dataclasses.replace(edit.request, changes=changes, seed=edit.seed + repeat)
        editor, trust = self._models.editor(request.method)
        with self._on_device():
            return trusted_edit(scan.volume, factual, request, editor, trust, edit.caution)[0]

    def _write(self, folder: Path, edited: Counterfactual, number: str) -> None:
        outputs = self._task.edit.outputs
        with self._timed("write"):
            if "dicom" in outputs:
                self._write_as(folder / f"dicom{number}", edited)
            if "nifti" in outputs or "pairs" in outputs:
                self._write_as(self._anatomical(folder, f"desc-{self._label}{number}_T1w"), edited)
        if "seg" in outputs:
            with self._on_device():
                labels = segment_volume(edited.volume, self._models.segmenter())
            with self._timed("write"):
                write_labels(folder / f"seg{number}", read_scan(folder / f"dicom{number}"), labels)

    def _write_as(self, output: Path, edited: Counterfactual) -> None:
        write_counterfactual(output, self._scan, edited.volume, edited.requested, edited.evidence)

    def _write_scan(self, folder: Path) -> None:
        """Write the scan itself and its tissue, which is that of its counterfactuals: an edit keeps the anatomy."""
        with self._on_device():
            labels = segment_volume(self._scan.volume, self._models.segmenter())
        with self._timed("write"):
            sidecar = {**sidecar_of(self._scan.acquisition.parameters), "Synthetic": self._task.entry.is_synthetic}
            write_nifti(self._anatomical(folder, "T1w"), self._scan.volume, sidecar)
            write_labels(self._anatomical(folder, "dseg"), self._scan, labels)

    @property
    def _label(self) -> str:
        return re.sub(r"[^A-Za-z0-9]", "", self._task.edit.name)

    def _anatomical(self, folder: Path, ending: str) -> Path:
        return folder / "anat" / f"sub-{self._task.entry.key}_{ending}.nii.gz"

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        with device_turn(self._models.device):
            began = time.time()
            with self._timed("device"), _no_disk_errors():
                yield
            self._turns.append((round(began, 3), round(time.time() - began, 4)))

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[stage] += time.monotonic() - began


@contextlib.contextmanager
def _no_disk_errors() -> Iterator[None]:
    """Let a lack of memory fail one item; only a lack of disk stops the batch."""
    try:
        yield
    except ResourceError as error:
        raise CfmriError(error.message, error.hint) from error


def _judgement(edited: Counterfactual) -> dict[str, Any]:
    evidence = edited.evidence
    verdicts = {judge: evidence[judge]["verdict"] if judge in evidence else NOT_JUDGED for judge in JUDGES}
    return {**verdicts, "reasons": list(evidence.get("warnings", [])), "written": True}


def _kept(folder: Path, content: str | None) -> Outcome | None:
    """Return the outcome of an item that an earlier run finished without noting it, less the times of that run.

    It is ``None`` too if the series holds other images now.
    """
    if not folder.exists():
        return None
    try:
        said = json.loads((folder / OUTCOME_NAME).read_text(encoding="utf-8"))
        said.pop("pictures")
        as_made = {"state": State(said["state"]), "results": tuple(said["results"]), "device_turns": ()}
        outcome = Outcome(**{**said, **as_made})
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(f"{folder} is not a result of this batch.", "Move it away, then try again.") from None
    return None if content and outcome.content not in (None, content) else outcome
