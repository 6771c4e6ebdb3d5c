"""A batch whose workers and engine are killed at random: nothing lost, nothing twice, nothing half written.

With ``--soak``: 50 kills over 1,000 items, by worker processes and, where Ray is installed, by actors.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from small_archive import EDITS, SHAPE, actors, ledger_of, leftovers, results, workers_of, write_archive

SEED = 20261121
WORKERS = 2


@pytest.mark.parametrize("executor", ["local", "ray"])
@pytest.mark.timeout(7200)
def test_kills_lose_nothing_and_double_nothing(executor, soak, record_result, models, tmp_path):
    if executor == "ray" and not (soak and importlib.util.find_spec("ray")):
        pytest.skip("Ray is an optional extra, tested at full size only")
    items, wanted = (1000, 50) if soak else (12, 2)
    archive, out = write_archive(tmp_path / "archive", items), tmp_path / "out"
    (tmp_path / "edits.yaml").write_text(EDITS)
    command = [
        sys.executable, "-m", "cfmri_core", "batch", archive, out, "--edits", tmp_path / "edits.yaml",
        "--workers", WORKERS, "--model", models, "--device", "cpu", *(["--ray", "local"] if executor == "ray" else []),
    ]  # fmt: skip
    workers = (lambda _: actors()) if executor == "ray" else workers_of
    kills, runs = run_under_fire(list(map(str, command)), out, items, wanted, workers)
    counts, redone = ledger_of(out)
    instances = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in out.rglob("*.dcm")]
    partial = [folder for folder in results(out) if len(list(folder.rglob("*.*"))) != SHAPE[2] + 2]
    found = {
        "items": items, "kills": kills, "runs": runs, "done": counts["done"], "lost": items - len(results(out)),
        "duplicates": len(instances) - len(set(instances)), "partial": len(partial) + len(leftovers(out)),
        "redone": redone, "redo_limit": kills["worker"] + WORKERS * kills["engine"],
    }  # fmt: skip
    record_result(f"batch-kill-{executor}", {"seed": SEED, **found})
    assert (found["done"], found["lost"], found["duplicates"], found["partial"]) == (items, 0, 0, 0)
    assert sum(kills.values()) == wanted
    assert redone <= found["redo_limit"]


def run_under_fire(
    command: list[str], out: Path, items: int, wanted: int, workers: Callable[[int], list[int]]
) -> tuple[dict[str, int], int]:
    """Run a command until it ends well, killing now and then a worker, and every fifth time the engine itself.

    The last tenth of the items is spared: an item that dies twice is given up, as it should be.
    """
    rng = random.Random(SEED)
    kills, runs = {"worker": 0, "engine": 0}, 0
    environment = {**os.environ, "XDG_CACHE_HOME": str(out.parent / "cache")}
    while True:
        runs += 1
        made_before = len(results(out))
        with (out.parent / f"output-{runs}.txt").open("w") as output:
            engine = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while engine.poll() is None:
            time.sleep(rng.uniform(0.1, 0.3) if items < 100 else rng.uniform(0.2, 3.0))
            made = len(results(out))
            if sum(kills.values()) < wanted and made > made_before and made < 0.9 * items:
                is_engine = sum(kills.values()) % 5 == 1
                victims = [engine.pid] if is_engine else workers(engine.pid)
                if victims:
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    kills["engine" if is_engine else "worker"] += 1
                    made_before = made
        if engine.returncode == 0:
            return kills, runs
        assert engine.returncode == -signal.SIGKILL, (out.parent / f"output-{runs}.txt").read_text()
        if "--ray" in command:  # Ray's own processes end a little after the one that started them
            time.sleep(5)
