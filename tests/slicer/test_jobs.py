import threading
import time

import pytest
from CounterfactualMRILib import jobs
from CounterfactualMRILib.jobs import Job
from CounterfactualMRILib.problems import Cancelled, Problem


class Worker:
    """Runs the job's worker when the test says so, in this thread."""

    def __init__(self):
        self.run = None

    def __call__(self, target):
        self.run = target


def made(work, **arguments):
    worker = Worker()
    clock = iter(range(100))
    job = Job("Testing", work, clock=lambda: float(next(clock)), spawn=worker, **arguments).start()
    return job, worker


def test_progress_then_result():
    def work(report, isCancelled):
        report(1, 2, "half")
        return 20

    job, worker = made(work, finish=lambda result: result + 1)
    assert job.state == jobs.RUNNING
    assert not job.poll()
    worker.run()
    assert job.poll()
    assert (job.state, job.result, job.step, job.steps) == (jobs.DONE, 21, 1, 2)
    assert job.isOver
    assert not job.poll()


def test_failure_of_the_worker_and_of_the_scene():
    def refuse(report, isCancelled):
        raise Problem("No.", "Do.")

    job, worker = made(refuse)
    worker.run()
    job.poll()
    assert (job.state, job.message) == (jobs.FAILED, "No. Do.")
    with pytest.raises(Problem):
        job.wait()

    def finish(result):
        raise Problem("Not in this scene.")

    job, worker = made(lambda report, isCancelled: 1, finish=finish)
    worker.run()
    job.poll()
    assert (job.state, job.message) == (jobs.FAILED, "Not in this scene.")


def test_unexpected_failure_is_logged_with_its_origin(caplog):
    job, worker = made(lambda report, isCancelled: 1 / 0)
    worker.run()
    job.poll()
    assert job.state == jobs.FAILED
    assert "ZeroDivisionError" in caplog.text


def test_late_result_of_a_cancelled_job_is_dropped_but_cleaned_up():
    finished, cleaned = [], []
    job, worker = made(lambda report, isCancelled: 1, finish=finished.append, cleanup=lambda: cleaned.append(1))
    job.cancel()
    assert job.state == jobs.CANCELLED
    assert not job.isOver
    worker.run()
    job.poll()
    job.poll()
    assert (job.state, finished, cleaned, job.isOver) == (jobs.CANCELLED, [], [1], True)


def test_late_progress_and_failure_are_dropped():
    def work(report, isCancelled):
        report(1, 2, "half")
        assert isCancelled()
        raise Cancelled

    job, worker = made(work)
    job.cancel()
    worker.run()
    job.poll()
    assert (job.state, job.message, job.error, job.isOver) == (jobs.CANCELLED, "Cancelled", None, True)


def test_elapsed_time_stops_at_the_end():
    job, worker = made(lambda report, isCancelled: 1)
    worker.run()
    job.poll()
    assert job.elapsedS == job.elapsedS > 0


def test_a_job_starts_once_and_only_a_running_one_is_cancelled():
    job, worker = made(lambda report, isCancelled: 1)
    with pytest.raises(RuntimeError):
        job.start()
    worker.run()
    job.poll()
    job.cancel()
    assert job.state == jobs.DONE


def test_real_thread_waits_and_cancel_from_progress():
    seen = []

    def work(report, isCancelled):
        for step in range(1000):
            report(step, 1000, "working")
            if isCancelled():
                raise Cancelled
            time.sleep(0.005)

    def onProgress(job):
        seen.append(threading.current_thread() is threading.main_thread())
        if job.step > 3:
            job.cancel()

    with pytest.raises(Cancelled):
        Job("Testing", work).start().wait(onProgress)
    assert seen
    assert all(seen)
