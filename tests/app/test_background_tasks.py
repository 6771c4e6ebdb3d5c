"""No process of a training, scoring or batch outlives the server, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque

import psutil
import pytest
from cfmri_server.background_tasks import SERVER_PID, end_all, told
from monailabel.utils.async_tasks import utils

from app.archive_server import wait_until

SLEEP = "import time; time.sleep(120)"


@pytest.fixture
def started(monkeypatch):
    """Processes of the background tasks that were started; each sleeps until it is killed."""
    processes = []

    def run(task, method, callback=None):
        processes.append(subprocess.Popen([sys.executable, "-c", SLEEP]))
        utils.background_processes[method][task["id"]] = processes[-1]
        task["status"] = "RUNNING"
        processes[-1].wait()

    monkeypatch.setattr(utils, "_task_func", run)
    for table in (utils.background_tasks, utils.background_processes, utils.background_executors):
        table.clear()
    yield processes
    for process in processes:
        process.kill()
    for table in (utils.background_tasks, utils.background_processes, utils.background_executors):
        table.clear()


def test_what_runs_is_ended_and_what_waits_never_starts(started):
    tasks = [utils.run_background_task({"model": str(number)}, "train") for number in range(3)]
    tasks += [utils.run_background_task({"method": "dice"}, "scoring") for _ in range(2)]
    wait_until(lambda: len(started) == 2)
    end_all()
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2
    assert sorted(task["status"] for task in tasks) == ["STOPPED"] * 2 + ["SUBMITTED"] * 3


def test_a_task_that_is_just_being_started_is_ended_too(started):
    utils.run_background_task({}, "train")  # its process is not there yet
    end_all()
    assert [process.poll() for process in started] in ([], [-signal.SIGKILL])


def test_without_tasks_nothing_is_to_be_ended(started):
    end_all()
    assert started == []


def test_a_process_ends_when_its_server_was_killed():
    child = (
        f"from cfmri_server.background_tasks import end_with_server; end_with_server(); print(1, flush=True); {SLEEP}"
    )
    server = f"""
import os, subprocess, sys
os.environ[{SERVER_PID!r}] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
{SLEEP}
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, env=environment)
    training = psutil.Process(int(process.stdout.readline()))
    assert training.is_running()
    process.kill()
    process.communicate()
    wait_until(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, timeout_s=10)


@pytest.mark.parametrize("server_pid", [{}, {SERVER_PID: "own"}])
def test_the_server_itself_goes_on_without_its_parent(server_pid):
    set_own = f"os.environ[{SERVER_PID!r}] = str(os.getpid()); " if server_pid else ""
    code = f"""
import os; {set_own}
from cfmri_server.background_tasks import end_with_server
import threading
end_with_server()
print(threading.active_count())
"""
    environment = {name: value for name, value in os.environ.items() if name != SERVER_PID}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "1\n"


def test_of_what_a_process_wrote_only_the_kind_of_error_is_told():
    lines = [
        "Traceback (most recent call last):",
        '  File "/opt/cfmri/x.py", line 7, in read',
        "cfmri_core.errors.GeometryError: /srv/studies/Doe-John.nii.gz lies on another grid. Resample it.",
        "Doe^John",
    ]
    task = {"id": "1", "status": "ERROR", "request": {"model": "x"}, "details": deque(lines, maxlen=20)}
    assert told(task) == {**task, "details": ["GeometryError"]}
    assert told([task, {"id": "2", "details": deque(["Doe-John"])}])[1]["details"] == []
    assert told({"id": "3"}) == {"id": "3"}
    assert told(None) is None
    assert task["details"][-1] == "Doe^John"
