"""A small archive of several makers in untidy folders, untrained models, and an edits file: items take milliseconds."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from small_archive import EDITS, write_archive  # noqa: E402

from app.conftest import models  # noqa: E402, F401 - untrained models of each kind


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four series of two makers."""
    return write_archive(tmp_path / "archive", 4)


@pytest.fixture
def edits_file(tmp_path: Path) -> Path:
    """One edit of every series."""
    path = tmp_path / "edits.yaml"
    path.write_text(EDITS)
    return path
