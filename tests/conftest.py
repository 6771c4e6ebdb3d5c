"""What all tests share: the folder of their helpers on the path, and a real PACS."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from orthanc import Orthanc, running_orthanc

# Started in the background of a shell, tests ignore Ctrl-C; so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An empty Orthanc of its own for one test."""
    yield from running_orthanc(tmp_path_factory.mktemp("orthanc"))


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A worker of a batch in this process turns logging off; turn it on again."""
    yield
    logging.disable(logging.NOTSET)
