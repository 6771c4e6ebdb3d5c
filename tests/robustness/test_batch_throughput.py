"""How fast a batch is: two workers against one, a thread each, and how busy the device is where the model is the limit.

Only with ``--soak``, on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_archive import EDITS, write_archive

from cfmri_core.simulation.study import StudyPlan, simulate_dataset

LEAST_GAIN, LEAST_DEVICE_SHARE = 1.7, 0.9


def measured(archive: Path, out: Path, edits: str, workers: int, models: Path | None) -> dict[str, float]:
    """Run a batch and return its own timeline."""
    file = out.with_suffix(".yaml")
    file.write_text(edits)
    command = [
        sys.executable, "-m", "cfmri_core", "batch", archive, out, "--edits", file, "--workers", workers,
        "--device", "cpu", *(["--model", models] if models else []),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(out.parent / "cache")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "report.json").read_text())["timeline"]


@pytest.fixture(autouse=True)
def at_full_size(soak: bool) -> None:
    if not soak:
        pytest.skip("times count on an idle machine only: --soak")


@pytest.mark.timeout(7200)
def test_two_workers_are_nearly_twice_as_fast_where_the_model_is_not_the_limit(record_result, models, tmp_path):
    archive = write_archive(tmp_path / "archive", 200, shape=(64, 64, 24))
    one, two = (measured(archive, tmp_path / f"out-{n}", EDITS, n, models) for n in (1, 2))
    gain = one["elapsed_s"] / two["elapsed_s"]
    record_result("batch-throughput", {"items": one["items"], "gain": round(gain, 3), "one": one, "two": two})
    assert one["items"] == two["items"]
    assert gain >= LEAST_GAIN


@pytest.mark.timeout(7200)
def test_the_device_is_kept_busy_where_the_model_is_the_limit(record_result, tmp_path):
    simulate_dataset(tmp_path / "archive", 16, 97000, StudyPlan(slab_mm=60.0))
    timelines = {}
    for method in ("fast", "inversion"):  # reading and writing take as long for both; the network does not
        edits = f"edits: [{{name: a, preset: siemens-avanto-1.5t, method: {method}, synthetic: true}}]"
        timelines[method] = measured(tmp_path / "archive", tmp_path / f"out-{method}", edits, 2, None)
    shares = {method: timeline["device_share"]["cpu"] for method, timeline in timelines.items()}
    record_result("batch-device", {"device_share": shares, "timelines": timelines})
    assert shares["inversion"] >= LEAST_DEVICE_SHARE
