"""The real server as a child process, stopped again whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from cfmri_core.errors import RemoteError

_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 15.0


@contextlib.contextmanager
def running_server(studies: Path, log: Path, port: int = 0) -> Iterator[str]:
    """Serve a folder of studies on loopback; yield the address, and stop the server at the end.

    Args:
        studies: Folder of studies.
        log: Receives what the server prints.
        port: Port; 0 for a free one.

    Raises:
        RemoteError: The server ended or did not answer in time; the message holds its last line.
    """
    port = port or _free_port()
    address = f"http://127.0.0.1:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cfmri_core", "serve", str(studies), "--port", str(port)]
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            _wait_until_it_answers(process, address, log)
            yield address
        finally:
            _stop(process)


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RemoteError(
                f"The server ended at start (exit code {process.returncode}): {_last_line(log)}", f"See {log}."
            )
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/healthz", timeout=5.0).is_success:
                return
        time.sleep(0.3)
    raise RemoteError(f"The server did not answer within {_START_TIMEOUT_S:.0f} s.", f"See {log}.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the training processes it may have started (they share its session)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
