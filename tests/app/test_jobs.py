"""The queue of jobs by itself; over HTTP it is tried in test_inference.py."""

from __future__ import annotations

import asyncio
import errno
import threading
import time

import pytest
from cfmri_server import inference, jobs
from cfmri_server.job import Outcome, StoppedError
from cfmri_server.jobs import JobQueue
from cfmri_server.problem import BusyError, NotFoundError

from cfmri_core.errors import Cancelled, GeometryError


def run(queue: JobQueue, work, model="m", device="cpu", **options):
    job = queue.open(model, device, **options)
    queue.start(job, work)
    return job


def nothing(folder, progress):
    return Outcome(None, {})


def test_a_result_dropped_while_it_is_sent_arrives_whole(tmp_path):
    queue, content = JobQueue(tmp_path), bytes(range(256)) * 2**14

    def work(folder, progress):
        (folder / "image.nii").write_bytes(content)
        return Outcome(folder / "image.nii", {})

    job = run(queue, work)
    job.finished.result(10)
    answer = inference.response(job, inference.Output.IMAGE)
    queue.forget(job)
    assert not job.folder.exists()

    async def received():
        return b"".join([piece async for piece in answer.body_iterator])

    assert asyncio.run(received()) == content
    with pytest.raises(NotFoundError):
        inference.response(job, inference.Output.ALL)


def test_the_queue_is_bounded(tmp_path):
    queue = JobQueue(tmp_path, limit=2)
    gate = threading.Event()
    jobs = [run(queue, lambda folder, progress: gate.wait(10) and nothing(folder, progress)) for _ in range(2)]
    with pytest.raises(BusyError) as busy:
        queue.open("m")
    assert busy.value.http_status == 503
    assert busy.value.retry_after_s > 0
    gate.set()
    for job in jobs:
        job.finished.result(10)
    queue.open("m")


def test_one_model_runs_one_job_at_a_time_and_models_run_side_by_side(tmp_path):
    queue = JobQueue(tmp_path)
    running, most = [], {"a": 0, "b": 0}
    both = threading.Barrier(2, timeout=10)

    def work(folder, progress, model):
        running.append(model)
        most[model] = max(most[model], running.count(model))
        both.wait()
        running.remove(model)
        return Outcome(None, {})

    jobs = [run(queue, lambda f, p, m=model: work(f, p, m), model) for model in "aabb"]
    for job in jobs:
        job.finished.result(10)
    assert [job.state for job in jobs] == ["done"] * 4
    assert most == {"a": 1, "b": 1}


def test_old_results_are_dropped(tmp_path):
    queue = JobQueue(tmp_path, keep=2)
    jobs = []
    for _ in range(4):
        jobs.append(run(queue, nothing))
        jobs[-1].finished.result(10)
    queue.open("m")
    with pytest.raises(NotFoundError):
        queue.get(jobs[0].id)
    assert not jobs[0].folder.exists()
    assert queue.get(jobs[3].id).state == "done"


def test_large_results_are_dropped_sooner(tmp_path):
    queue = JobQueue(tmp_path, keep_bytes=1500)

    def work(folder, progress):
        (folder / "image.nii").write_bytes(b"0" * 1000)
        return Outcome(folder / "image.nii", {})

    first, second = (run(queue, work) for _ in range(2))
    for job in (first, second):
        job.finished.result(10)
    queue.open("m")
    assert queue.get(second.id)
    with pytest.raises(NotFoundError):
        queue.get(first.id)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (GeometryError("odd"), 422),
        (MemoryError(), 507),
        (RuntimeError("CUDA out of memory."), 507),
        (OSError(errno.ENOSPC, "No space left on device", "Doe^John"), 507),
        (ValueError("Doe^John"), 500),
    ],
)
def test_what_goes_wrong_is_typed_and_the_worker_lives_on(tmp_path, caplog, raised, status):
    queue = JobQueue(tmp_path)

    def work(folder, progress):
        raise raised

    job = run(queue, work)
    job.finished.result(10)
    assert job.state == "failed"
    assert job.failure.status == status
    assert "Doe^John" not in caplog.text + str(job.status())
    after = run(queue, nothing)
    after.finished.result(10)
    assert after.state == "done"


def test_cancelling_reaches_the_work_through_its_progress(tmp_path):
    queue = JobQueue(tmp_path)
    started, seen = threading.Event(), []

    def work(folder, progress):
        started.set()
        try:
            while True:
                progress(1, 2, "on")
                time.sleep(0.01)
        except Cancelled as error:
            seen.append(error)
            raise

    job = run(queue, work)
    started.wait(10)
    queue.cancel(job)
    job.finished.result(10)
    assert job.state == "cancelled"
    assert seen


class Gate:
    """Work that waits until it is let go, and notes who runs beside it."""

    def __init__(self):
        self.opened, self.running, self.beside = threading.Event(), [], {}

    def work(self, name):
        def wait(folder, progress):
            self.running.append(name)
            self.beside[name] = list(self.running)
            self.opened.wait(10)
            self.running.remove(name)
            return Outcome(None, {})

        return wait


def test_two_models_do_not_share_a_gpu_and_the_line_is_kept(tmp_path):
    queue, gate = JobQueue(tmp_path), Gate()
    wanted = [("a", "cuda:0"), ("a", "cuda:0"), ("b", "cuda:0"), ("b", "cuda:1"), ("c", "cpu")]
    waiting = [run(queue, gate.work(index), *one) for index, one in enumerate(wanted)]
    assert [job.state for job in waiting] == ["running", "queued", "queued", "running", "running"]
    gate.opened.set()
    for job in waiting:
        job.finished.result(10)
    on_first_gpu = {0, 1, 2}
    assert all(on_first_gpu.intersection(gate.beside[index]) == {index} for index in on_first_gpu)
    ended = [waiting[index].ended_at for index in (0, 1, 2)]
    assert ended == sorted(ended)


def test_the_processor_runs_a_few_jobs_at_once(tmp_path):
    queue, gate = JobQueue(tmp_path), Gate()
    waiting = [run(queue, gate.work(model), model) for model in "abcd"]
    assert [job.state for job in waiting].count("running") == jobs.MOST_ON_PROCESSOR
    gate.opened.set()
    for job in waiting:
        job.finished.result(10)
    assert max(len(beside) for beside in gate.beside.values()) == jobs.MOST_ON_PROCESSOR


def test_a_job_cancelled_while_it_starts_is_ended_once_and_leaves_nothing(tmp_path):
    """Cancel and drop race with start and end; whatever wins, the folder goes and the model is free again."""
    queue = JobQueue(tmp_path)

    def work(folder, progress):
        progress(1, 1, "on")
        (folder / "image.nii").write_bytes(b"0")
        return Outcome(folder / "image.nii", {})

    for round_number in range(40):
        job = queue.open("m")
        threads = [
            threading.Thread(target=function, args=(job,))
            for function in (lambda job: queue.start(job, work), queue.cancel, queue.cancel)
        ]
        for thread in threads[round_number % 2 :]:
            thread.start()
        if round_number % 2:
            queue.start(job, work)
        for thread in threads[round_number % 2 :]:
            thread.join(10)
        job.finished.result(10)
        queue.forget(job)
        assert not job.folder.exists()
    assert list(tmp_path.iterdir()) == []
    run(queue, nothing).finished.result(10)


def test_a_job_dropped_while_it_runs_leaves_nothing(tmp_path):
    queue, gate = JobQueue(tmp_path), Gate()

    def work(folder, progress):
        gate.opened.wait(10)
        (folder / "image.nii").write_bytes(b"0")
        return Outcome(folder / "image.nii", {})

    job = run(queue, work)
    queue.forget(job)
    assert job.folder.exists()
    gate.opened.set()
    job.finished.result(10)
    run(queue, nothing).finished.result(10)  # of the same model, so it starts when the first has gone
    with pytest.raises(NotFoundError):
        queue.get(job.id)
    assert not job.folder.exists()


def test_results_are_dropped_when_they_are_old(tmp_path):
    queue = JobQueue(tmp_path, keep_s=0.05)
    job = run(queue, nothing)
    job.finished.result(10)
    watching = threading.Thread(target=queue.watch_age, args=(0.02,), daemon=True)
    watching.start()
    deadline = time.monotonic() + 5
    while job.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    queue.close()
    watching.join(5)
    assert not job.folder.exists()
    assert not watching.is_alive()


def test_a_result_that_is_waited_for_is_not_dropped_for_others(tmp_path):
    queue = JobQueue(tmp_path, keep=0)
    waited = run(queue, nothing, is_lasting=False)
    waited.finished.result(10)
    queue.open("m")
    assert queue.get(waited.id) is waited


def test_a_closed_queue_ends_what_it_has_and_takes_nothing_more(tmp_path):
    queue, started = JobQueue(tmp_path), threading.Event()

    def work(folder, progress):
        while True:
            started.set()
            progress(1, 2, "on")
            time.sleep(0.01)

    running, waiting, opened = run(queue, work), run(queue, work), queue.open("m")
    started.wait(10)
    queue.close()
    queue.start(opened, work)
    for job in (running, waiting, opened):
        job.finished.result(10)
        assert job.state == "failed"
        assert "server was stopped" in job.failure.detail["message"]
    with pytest.raises(StoppedError):
        queue.open("m")


def test_finished_jobs_outlive_the_queue_and_the_rest_is_removed(tmp_path):
    queue = JobQueue(tmp_path)

    def work(folder, progress):
        progress(3, 3, "on")
        for name in ("image.nii", "map.nii"):
            (folder / name).write_text(name)
        return Outcome(folder / "image.nii", {"volumes_ml": {"fat": 1.5}}, {"map": folder / "map.nii"})

    def fails(folder, progress):
        raise GeometryError("The slices are not parallel.", "Give one stack.")

    done, failed, not_lasting = run(queue, work), run(queue, fails), run(queue, work, is_lasting=False)
    for job in (done, failed, not_lasting):
        job.finished.result(10)
    (tmp_path / "stray.txt").write_text("x")
    (done.folder / ".part-x").mkdir()
    later = JobQueue(tmp_path)
    again = later.get(done.id)
    assert again.status() == done.status()
    assert {name: path.read_text() for name, path in again.outcome.images().items()} == {
        "image": "image.nii",
        "map": "map.nii",
    }
    assert again.outcome == done.outcome
    assert later.get(failed.id).status() == failed.status()
    assert {path.name for path in tmp_path.iterdir()} == {done.id, failed.id}
    assert {path.name for path in done.folder.iterdir()} == {"job.json", "image.nii", "map.nii"}
    assert JobQueue(tmp_path, keep=0).forget_old() is None
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_server_did_not_finish_has_failed(tmp_path):
    queue, gate = JobQueue(tmp_path), Gate()
    left = [run(queue, gate.work(index)) for index in range(2)]
    (left[0].folder / "input.nii.gz").write_bytes(b"a patient's image")
    later = JobQueue(tmp_path)
    for job in left:
        status = later.get(job.id).status()
        assert status["state"] == "failed"
        assert "server was stopped" in status["error"]["message"]
        assert [path.name for path in job.folder.iterdir()] == ["job.json"]
    gate.opened.set()


def test_the_folder_of_jobs_is_private(tmp_path):
    queue = JobQueue(tmp_path / "jobs")
    job = queue.open("m")
    assert [(folder.stat().st_mode & 0o777) for folder in (job.folder, job.folder.parent)] == [0o700, 0o700]
