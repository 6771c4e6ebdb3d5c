"""Malformed DICOM: every file gives a volume or a typed refusal, soon and in little memory."""

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import museum
import pydicom
import pytest

from cfmri_core.dicom.read import read_series
from cfmri_core.errors import DicomReadError, GeometryError

from .ingest_worker import SEED

WORKER = Path(__file__).with_name("ingest_worker.py")
#: Mutants that one process reads: when one dies, no more than these are lost.
PART = 1000


def test_mutants_give_a_volume_or_a_typed_refusal(soak, record_result, tmp_path):
    count = 10_000 if soak else 2000
    deaths, parts = 0, []
    for first in range(0, count, PART):
        folder = tmp_path / str(first)
        folder.mkdir()
        command = [sys.executable, WORKER, "mutants", folder, str(first), str(min(first + PART, count))]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        deaths += finished.returncode < 0
        assert finished.returncode <= 0, finished.stderr[-2000:]
        parts += [json.loads(finished.stdout)] if finished.returncode == 0 else []
    result = {
        "seed": SEED,
        "mutants": count,
        "accepted": sum(part.get("accepted", 0) for part in parts),
        "refused": sum(part.get("refused", 0) for part in parts),
        "process_deaths": deaths,
        "other_exceptions": [name for part in parts for name in part["other_exceptions"]],
        "slowest_s": max(part["slowest_s"] for part in parts),
        "peak_rss_mib": max(part["rss_mib"] for part in parts),
        "promise": "0 deaths, 0 exceptions but DicomReadError and GeometryError, 0 over 5 s, at most 1024 MiB",
    }
    record_result("malformed_dicom", result)
    assert deaths == 0
    assert result["other_exceptions"] == []
    assert result["accepted"] + result["refused"] == count
    assert result["refused"] > count / 3
    assert result["slowest_s"] < 5
    assert result["peak_rss_mib"] < 1024


def test_museum_is_refused(tmp_path):
    for name, content in museum.broken(museum.whole(tmp_path)).items():
        path = tmp_path / f"{name}.dcm"
        path.write_bytes(content)
        with pytest.raises(DicomReadError, match=re.escape(path.name)):
            read_series(path)


def test_files_that_pydicom_tests_itself_with_raise_nothing_else(tmp_path):
    files = [path for path in (Path(pydicom.__file__).parent / "data" / "test_files").rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        with contextlib.suppress(DicomReadError, GeometryError):
            read_series(path)


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    museum.hostile_tree(tmp_path)
    for name in ("pipe.dcm", "zero.dcm", "self.dcm", "nowhere.dcm"):
        with pytest.raises(DicomReadError):
            read_series(tmp_path / name)
    with pytest.raises(DicomReadError):
        read_series(tmp_path)
