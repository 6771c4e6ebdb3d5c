"""A real `cfmri serve` on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

START_TIMEOUT_S = 400


@contextmanager
def served(studies: Path, output: Path, models: Path | None = None) -> Iterator[str]:
    """Serve a folder of studies until the block ends; see `running`. Yields the server's address."""
    with running(studies, output, models) as (address, _):
        yield address


@contextmanager
def running(studies: Path, output: Path, models: Path | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a folder of studies until the block ends.

    Args:
        studies: What to serve.
        output: File for everything the server prints.
        models: Folder of models; without it the shipped ones.

    Yields:
        The server's address, and its process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cfmri_core", "serve", str(studies), "--port", str(port)]
    environment = {**os.environ, **({"CFMRI_MODELS": str(models)} if models else {})}
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        _waitUntilHealthy(process, address, output)
        yield address, process
    finally:
        process.terminate()
        process.wait(20)


def _waitUntilHealthy(process, address: str, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{address}/healthz", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(f"The server did not start:\n{output.read_text()}")
