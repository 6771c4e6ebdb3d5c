"""Workers as Slurm jobs, through submitit: each makes a share of the items, and what it made before it ended counts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from cfmri_core.batch.engine import Executor, Work
from cfmri_core.batch.item import Job, Outcome, Task
from cfmri_core.batch.worker import Worker
from cfmri_core.errors import CfmriError, RequestError

#: Items of one job: loading the models is then a small part of it, and a job that is lost is no great loss.
ITEMS_PER_JOB = 100
_SECONDS_BETWEEN_LOOKS = 1.0
#: Removed with other leftovers; its files name files of the archive while jobs run.
_FOLDER = ".part-slurm"


def slurm_executor(configuration: Path) -> Executor:
    """Return an executor on Slurm.

    Args:
        configuration: YAML: parameters of submitit's ``update_parameters``, such as ``slurm_partition``,
            ``timeout_min``, ``gpus_per_node``; and ``cluster: local`` to try it without Slurm.

    Raises:
        RequestError: submitit is not installed, or the file is no mapping.
    """
    try:
        import submitit
    except ImportError:
        raise RequestError("submitit is not installed.", "Install it: pip install 'cfmri[slurm]'") from None
    try:
        parameters = yaml.safe_load(configuration.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"{configuration} cannot be read ({type(error).__name__}).", "Give a YAML file.") from None
    if not isinstance(parameters, dict):
        raise RequestError(f"{configuration} is no mapping.", "Example: slurm_partition: gpu")
    cluster = parameters.pop("cluster", None)

    def run(job: Job, work: Work, workers: int) -> None:
        executor = submitit.AutoExecutor(folder=job.output / _FOLDER, cluster=cluster)
        executor.update_parameters(**parameters)
        _run(executor, submitit, job, work, workers)

    return run


def make_share(job: Job, tasks: Sequence[Task]) -> list[Outcome]:
    """Make a share of the items; what a job does."""
    worker = Worker(job, 0)
    return [worker.make(task) for task in tasks]


def _run(executor: Any, submitit: Any, job: Job, work: Work, workers: int) -> None:
    running: list[tuple[Any, list[Task]]] = []
    try:
        while True:
            while len(running) < workers and (share := list(islice(iter(work.take, None), ITEMS_PER_JOB))):
                running.append((executor.submit(make_share, job, share), share))
            if not running:
                return
            ended = [pair for pair in running if pair[0].done()]
            for pair in ended:
                running.remove(pair)
                _collect(submitit, job, work, *pair)
            if not ended:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for submitted, _ in running:
            submitted.cancel(check=False)


def _collect(submitit: Any, job: Job, work: Work, submitted: Any, share: Sequence[Task]) -> None:
    """Note what a job made; of one that was lost, blame the first item without results."""
    error = submitted.exception()
    if error is None:
        for task, outcome in zip(share, submitted.result(), strict=True):
            work.finish(task, outcome)
        return
    cause = getattr(error, "__cause__", None) or error
    to_blame = next((task for task in share if not task.folder(job.output).exists()), None)
    for task in share:
        work.give_back(task, crashed=task is to_blame)
    if isinstance(cause, CfmriError):
        raise cause
    if not isinstance(error, (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError)):
        raise error
