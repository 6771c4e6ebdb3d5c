"""A small archive of two makers, untrained models, and a batch of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from app.conftest import models  # noqa: E402, F401 - untrained models of each kind
from small_archive import write_archive  # noqa: E402


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four series of two makers."""
    return write_archive(tmp_path_factory.mktemp("hospital") / "archive", 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where results go."""
    return tmp_path / "out"
