"""A server process that works for an archive; started, killed and started again by tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from app.conftest import APP, _announced_url


@dataclass
class ArchiveServer:
    """A running server of an archive.

    Attributes:
        http: A client of it.
        state: Its state folder.
        output: File with everything it printed.
    """

    http: httpx.Client
    state: Path
    output: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def images(self) -> dict[str, Any]:
        return self.http.get("/datastore/?output=all").json()["objects"]

    def uploads(self, *states: str) -> list[dict[str, Any]]:
        uploads = self.http.get("/archive/").json()["uploads"]
        return [upload for upload in uploads if not states or upload["state"] in states]


@contextmanager
def archive_server(url: str, state: Path, models: Path, **environment: str) -> Iterator[ArchiveServer]:
    """Serve an archive as long as the block."""
    state.parent.mkdir(parents=True, exist_ok=True)
    output = state.with_suffix(".txt")
    command = [sys.executable, str(APP / "cfmri_server" / "launch.py"), url, "--state", str(state), "--port", "0"]
    variables = {**os.environ, "CFMRI_MODELS": str(models), "CFMRI_PACS_REFRESH_S": "0.5", **environment}
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=variables)
        try:
            with httpx.Client(base_url=_announced_url(process, output), timeout=120) as http:
                yield ArchiveServer(http, state, output, process)
        finally:
            process.terminate()
            process.wait(30)


def wait_until(holds: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Return what a question answers once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (answer := holds()):
        assert time.monotonic() < deadline, "It did not become true."
        time.sleep(0.1)
    return answer
