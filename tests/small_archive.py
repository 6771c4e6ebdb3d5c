"""An archive of tiny series, as many as wanted, and what tests of batches do with it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import phantoms

from cfmri_core.batch import local
from cfmri_core.batch.edits_file import read_edits
from cfmri_core.batch.engine import Batch, Work
from cfmri_core.batch.item import Job, Outcome, Task
from cfmri_core.batch.ledger import LedgerReport
from cfmri_core.batch.source import Tree
from cfmri_core.batch.worker import Worker

EDIT = "shorter-echo"
EDITS = f"""\
defaults: {{method: inversion, steps: 1, check: false}}
edits:
  - name: {EDIT}
    set: {{echo_time_ms: 1.4}}
"""
SHAPE = (18, 16, 3)
MAKERS = ("SIEMENS", "GE MEDICAL SYSTEMS")


def write_archive(root: Path, count: int, shape: tuple[int, int, int] = SHAPE) -> Path:
    """Write series of two makers in turn, each in a folder of its own and with identifiers of its own."""
    affine = phantoms.affine_of(np.eye(3))
    for number in range(count):
        uid = f"1.2.826.0.1.3680043.{number + 1}"
        voxels = np.random.default_rng(number).integers(0, 500, shape).astype(np.uint16)
        for k in range(shape[2]):
            own = {"Manufacturer": MAKERS[number % 2], "SeriesInstanceUID": uid, "SOPInstanceUID": f"{uid}.{k + 1}"}
            dataset = phantoms.slice_dataset(voxels, affine, k, own)
            phantoms.save(root / f"{number:04d}" / f"IM{k:04d}.dcm", dataset)
    return root


def batch_of(archive: Path, out: Path, models: Path, edits: str = EDITS) -> Batch:
    """Return a batch on the CPU."""
    file = out.parent / "edits.yaml"
    file.write_text(edits)
    job = Job(Tree(archive, out.parent / "index.sqlite"), out, models, ("cpu",), 1)
    return Batch(job, read_edits(file, "inversion"))


def run_here(job: Job, work: Work, workers: int) -> None:
    """Make the items in this process; an executor without processes."""
    worker = Worker(job, 0)
    while (task := work.take()) is not None:
        work.finish(task, worker.make(task))


def results(out: Path) -> list[Path]:
    """Return the folders of items."""
    return sorted(out.glob("*/sub-*"))


def leftovers(out: Path) -> list[Path]:
    """Return what was left half written anywhere."""
    return sorted(out.rglob(".part-*"))


def ledger_of(out: Path) -> tuple[dict[str, int], int]:
    """Return counts by state, and how often items were begun again."""
    with LedgerReport.of_folder(out) as report:
        assert report is not None
        return {str(state): count for state, count in report.counts().items()}, report.redone()


def bytes_below(folder: Path) -> bytes:
    """Return the names and contents of all files below a folder, one after another."""
    found = [os.fsencode(path) + b"\n" + (path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*")]
    return b"\n".join(found)


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of an engine: children of its fork server."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    return [child for child, parent in parents.items() if parents.get(parent) == pid]


def actors() -> list[int]:
    """Return the processes of Ray actors on this machine that are up, whoever started them."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if command.read_bytes().startswith(b"ray::Worker"):
                found.append(int(command.parent.name))
    return found


def serve_with_little_room(connection: Any, job: Job, number: int) -> None:
    """Serve as a worker that can write no file larger than 1000 bytes: what a full disk looks like, on purpose."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    local.serve(connection, job, number)


def serve_and_be_told_to_end(connection: Any, job: Job, number: int) -> None:
    """Serve as a worker whose process group is told to end at every item."""
    make = Worker.make

    def told(self: Worker, task: Task) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        return make(self, task)

    Worker.make = told  # type: ignore[method-assign]
    local.serve(connection, job, number)


def serve_nothing(connection: Any, job: Job, number: int) -> None:
    """End at once."""
    os._exit(1)
