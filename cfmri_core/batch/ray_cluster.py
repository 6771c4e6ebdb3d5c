"""Workers as Ray actors, on this machine or a cluster that sees the archive and the output under the same paths."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from cfmri_core.batch.engine import Executor, Work
from cfmri_core.batch.item import Job, Outcome, Task
from cfmri_core.batch.worker import Worker
from cfmri_core.errors import CfmriError, RequestError, ResourceError

#: Address that starts Ray on this machine, on loopback.
LOCAL = "local"
#: So many deaths for each worker, and no item made in between: then something is wrong with all of them.
MOST_DEATHS_IN_A_ROW = 3


def ray_executor(address: str) -> Executor:
    """Return an executor on a Ray cluster.

    Args:
        address: As `ray.init` takes it, or `LOCAL`.

    Raises:
        RequestError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    try:
        import ray
    except ImportError:
        raise RequestError("Ray is not installed.", "Install it: pip install 'cfmri[ray]'") from None

    def run(job: Job, work: Work, workers: int) -> None:
        with _connected(ray, address):
            _run(ray, job, work, workers)

    return run


def _run(ray: Any, job: Job, work: Work, workers: int) -> None:
    gpus = ray.cluster_resources().get("GPU", 0.0) if job.devices[0] != "cpu" else 0.0
    # An actor that dies is replaced, not restarted: one that is being restarted refuses items it never saw.
    options = {"num_cpus": 1, "num_gpus": min(1.0, gpus / workers), "max_restarts": 0, "max_task_retries": 0}
    actor = ray.remote(**options)(Worker)
    idle = [actor.remote(job, number) for number in range(workers)]
    started, deaths = workers, 0
    in_hand: dict[Any, tuple[Any, Task]] = {}
    while True:
        while idle and (task := work.take()) is not None:
            worker = idle.pop()
            in_hand[worker.make.remote(task)] = worker, task
        if not in_hand:
            return
        for reference in ray.wait(list(in_hand), num_returns=1)[0]:
            worker, task = in_hand.pop(reference)
            outcome = _outcome(ray, reference)
            if outcome is not None:
                deaths = 0
                work.finish(task, outcome)
                idle.append(worker)
                continue
            deaths += 1
            work.give_back(task, crashed=True)
            if deaths > MOST_DEATHS_IN_A_ROW * workers:
                raise ResourceError("Actors die one after another.", "Use fewer with --workers, or look at Ray's logs.")
            idle.append(actor.remote(job, started))
            started += 1


def _outcome(ray: Any, reference: Any) -> Outcome | None:
    """Return what an actor made; ``None`` if it has died.

    Raises:
        CfmriError: No item can succeed.
    """
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayActorError:
        return None
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, CfmriError) else error from None
    return outcome


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect without telemetry, dashboard and the actors' output, which may quote headers."""
    where = {"_node_ip_address": "127.0.0.1"} if address == LOCAL else {"address": address}
    options = {"include_dashboard": False} if address == LOCAL else {}
    ray.init(**where, **options, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
