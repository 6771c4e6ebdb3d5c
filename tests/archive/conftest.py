"""Fixtures of the archive tests, and the path to `phantoms` and `museum`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from phantoms import affine_of, distinct_voxels, save, slice_dataset

WriteSeries = Callable[..., list[Path]]


@pytest.fixture
def write(tmp_path: Path) -> WriteSeries:
    """Write a series below ``archive``: ``write("a/b", 1, EchoTime="9")``, files named by slice."""

    def write_series(folder: str, number: int, count: int = 4, prefix: str = "", **attributes: Any) -> list[Path]:
        uids: Mapping[str, Any] = {"SeriesInstanceUID": f"1.2.9.{number}", **attributes}
        voxels, paths = distinct_voxels((7, 5, count)), []
        for k in range(count):
            own = {"SOPInstanceUID": f"1.2.9.{number}.{int.from_bytes(prefix.encode())}.{k}", **uids}
            dataset = slice_dataset(voxels, affine_of(np.eye(3)), k, own)
            paths.append(save(tmp_path / "archive" / folder / f"{prefix}{k}.dcm", dataset))
        return paths

    return write_series


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    return tmp_path / "archive"
