"""Slurm jobs: submitit's own local cluster where it is installed, and jobs that get lost."""

from types import SimpleNamespace

import pytest
from small_archive import batch_of, leftovers, results

from cfmri_core.batch import slurm
from cfmri_core.batch.slurm import make_share, slurm_executor
from cfmri_core.errors import RequestError


class LostJobError(Exception):
    """As submitit says that a job ended without a result."""


class Jobs:
    """Run each job at once, in this process; the first is lost after its first item."""

    def __init__(self, losses):
        self.losses = losses

    def submit(self, function, job, tasks):
        error = None
        if self.losses > 0:
            self.losses -= 1
            error, tasks = LostJobError(), tasks[:1]
        made = function(job, tasks)
        return SimpleNamespace(
            done=lambda: True, exception=lambda: error, result=lambda: made, cancel=lambda check: None
        )


@pytest.fixture
def submitit(monkeypatch):
    monkeypatch.setattr(slurm, "ITEMS_PER_JOB", 3)
    return SimpleNamespace(
        core=SimpleNamespace(utils=SimpleNamespace(UncompletedJobError=LostJobError, FailedJobError=LostJobError))
    )


def test_what_a_lost_job_had_made_counts_and_the_rest_is_made_again(archive, models, out, submitit):
    def executor(job, work, workers):
        slurm._run(Jobs(losses=1), submitit, job, work, workers)

    summary = batch_of(archive, out, models).run(executor, 1)
    assert summary["items"]["done"] == len(results(out)) == 4


def test_an_item_that_loses_two_jobs_is_given_up(archive, models, out, submitit):
    class Losing(Jobs):
        def submit(self, function, job, tasks):
            return super().submit(lambda job, tasks: [], job, tasks)

    def executor(job, work, workers):
        slurm._run(Losing(losses=99), submitit, job, work, workers)

    assert batch_of(archive, out, models).run(executor, 1)["items"]["failed"] == 4


def test_a_share_is_made_in_order(archive, models, out):
    made = []

    def executor(job, work, workers):
        tasks = [work.take(), work.take()]
        for task, outcome in zip(tasks, make_share(job, tasks), strict=True):
            work.finish(task, outcome)
            made.append(outcome.state)

    batch_of(archive, out, models).run(executor, 1)
    assert made == ["done", "done"]


def test_submitit_runs_jobs_on_this_machine(archive, models, out, tmp_path):
    pytest.importorskip("submitit", reason="submitit is an optional extra")
    (tmp_path / "slurm.yaml").write_text("cluster: local\ntimeout_min: 5\n")
    summary = batch_of(archive, out, models).run(slurm_executor(tmp_path / "slurm.yaml"), 2)
    assert summary["items"]["done"] == 4
    assert not leftovers(out)


def test_a_configuration_that_is_none_is_refused(tmp_path):
    pytest.importorskip("submitit", reason="submitit is an optional extra")
    for text in ("[", "- a"):
        (tmp_path / "slurm.yaml").write_text(text)
        with pytest.raises(RequestError, match=r"slurm\.yaml"):
            slurm_executor(tmp_path / "slurm.yaml")
