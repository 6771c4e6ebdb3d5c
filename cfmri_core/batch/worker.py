"""What every worker does, whoever started it: load the models once, then make items."""

from __future__ import annotations

import logging
import warnings

from cfmri_core.batch.item import Job, Models, Outcome, Task, make_item


class Worker:
    """One worker of a batch.

    Args:
        job: What it needs to know.
        number: Workers take the devices in turn by their number.
    """

    def __init__(self, job: Job, number: int) -> None:
        import torch

        # Warnings and log lines of parsers quote headers.
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        torch.set_num_threads(job.threads)
        self._job = job
        self._models = Models(job.models, job.devices[number % len(job.devices)])

    def make(self, task: Task) -> Outcome:
        """Make one item, see `make_item`."""
        return make_item(task, self._job, self._models)
