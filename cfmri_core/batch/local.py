"""Workers as processes of this machine, each at its own pipe: one that dies takes nothing with it but its item."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext

from cfmri_core.batch import worker
from cfmri_core.batch.engine import Work
from cfmri_core.batch.item import Job, Outcome, Task
from cfmri_core.errors import CfmriError, ResourceError

#: Workers that die in a row before their first item: then something is wrong with all of them.
_MOST_STILLBIRTHS = 3
#: Bytes of a path that leave room for the name of a socket below it.
_LONGEST_TEMPORARY_FOLDER = 70


def run_local(job: Job, work: Work, workers: int) -> None:
    """Make all items by worker processes; one that dies is replaced.

    Raises:
        ResourceError: Results cannot be written, or workers die before their first item.
        CfmriError: The models cannot be loaded.
    """
    crew = _Crew(job, work, workers)
    try:
        crew.run()
    finally:
        crew.kill()


class _Crew:
    """The worker processes of one run.

    Args:
        job: What they need to know.
        work: Where items come from.
        workers: How many there are at most.
    """

    def __init__(self, job: Job, work: Work, workers: int) -> None:
        self._job, self._work, self._workers = job, work, workers
        self._processes: list[_Process] = []
        self._started = self._stillbirths = 0

    def run(self) -> None:
        """Work until there are no more items and none is in hand."""
        self._fill_up()
        while self._processes:
            ready = wait([process.connection for process in self._processes])
            for process in [process for process in self._processes if process.connection in ready]:
                if not self._attend(process):
                    process.close()
                    self._processes.remove(process)
            self._fill_up()

    def kill(self) -> None:
        """End all processes at once."""
        for process in self._processes:
            process.kill()

    def _fill_up(self) -> None:
        while len(self._processes) < self._workers and (task := self._work.take()) is not None:
            self._processes.append(_Process(self._job, self._started, task))
            self._started += 1

    def _attend(self, process: _Process) -> bool:
        """Take what a process sent and hand it the next item; return whether it goes on."""
        received = process.received()
        if isinstance(received, Outcome):
            self._stillbirths = 0
            self._work.finish(process.task, received)
            task = self._work.take()
            return task is not None and process.hand(task)
        self._work.give_back(process.task, crashed=received is None)
        if received is not None:
            raise received
        self._stillbirths += not process.has_worked
        if self._stillbirths >= _MOST_STILLBIRTHS:
            raise ResourceError("Workers end before their first item.", "Use fewer with --workers.")
        return False


class _Process:
    """One worker process and the item it has in hand.

    Args:
        job: What it needs to know.
        number: How many were started before it.
        task: Its first item.
    """

    def __init__(self, job: Job, number: int, task: Task) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job, number), daemon=True)
        self._process.start()
        theirs.close()
        self.task = task
        self.has_worked = False
        self.hand(task)

    def hand(self, task: Task) -> bool:
        """Hand it an item."""
        self.task = task
        with contextlib.suppress(OSError):  # it has died: `received` says so
            self.connection.send(task)
        return True

    def received(self) -> Outcome | CfmriError | None:
        """Return what it sent: an outcome, or why no item can succeed; ``None`` if it has died."""
        try:
            outcome: Outcome | CfmriError = self.connection.recv()
        except (EOFError, OSError):
            return None
        self.has_worked = True
        return outcome

    def close(self) -> None:
        """Let it end."""
        self.connection.close()
        self._process.join(10)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()


def _context() -> ForkServerContext | SpawnContext:
    """Return how workers are started: from a server that has imported what they need and has no threads.

    To spawn each one would take seconds of imports; to fork this process, which has threads, can hang.
    """
    # The server listens at a socket in the folder for temporary files, whose path the system limits to 107 bytes.
    socket_fits = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY_FOLDER
    if "forkserver" not in multiprocessing.get_all_start_methods() or not socket_fits:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    return context


def serve(connection: Connection, job: Job, number: int) -> None:
    """Make items until the pipe closes."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # they reach the whole group; the engine decides
        signal.signal(stop, signal.SIG_IGN)
    threading.Thread(target=_end_with_engine, daemon=True).start()
    try:
        own = worker.Worker(job, number)
        while True:
            connection.send(own.make(connection.recv()))
    except (EOFError, OSError):
        return
    except CfmriError as error:
        with contextlib.suppress(OSError):
            connection.send(error)


def _end_with_engine() -> None:
    """End this process when the engine dies, so that nothing writes into an output that another run has taken over."""
    engine = multiprocessing.parent_process()
    if engine is not None:
        wait([engine.sentinel])
        os._exit(1)
