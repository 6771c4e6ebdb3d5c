"""A training that is killed at any point goes on to the same model, and what is served is always whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.model_folder import locate_model
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from robustness.train_until_killed import POINTS

SCRIPT = Path(__file__).with_name("train_until_killed.py")
A_FEW = ("writing a checkpoint", "copying the model to publish")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, soak):
    """What the script found: the training that was never killed under an empty name."""
    studies = tmp_path_factory.mktemp("studies")
    simulate_dataset(studies, 2, 4200, StudyPlan(slab_mm=12.0 if soak else 6.0))
    options = {"epochs": 1, "augmentation": "counterfactual" if soak else "none", "counterfactuals_per_volume": 1,
               "start": "new", "publish": "always", "seed": 5, "device": "cpu"}  # fmt: skip
    given = {"studies": str(studies), "out": str(tmp_path_factory.mktemp("states")), "options": options,
             "points": list(POINTS) if soak else A_FEW}  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(given)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(3600)
def test_a_training_killed_anywhere_ends_in_the_model_it_would_have_been(killed, record_result):
    shipped, expected = weights_sha256(locate_model("segmenter")), killed.pop("")["served"]
    assert expected["described"] == expected["found"] != shipped
    for point, seen in killed.items():
        assert seen["killed_by"] == signal.SIGKILL, point
        after = seen["served_after_kill"]
        assert after["described"] == after["found"], point
        assert after["found"] in (shipped, expected["found"]), point
        assert (seen["ended_by"], seen["state"]) == (0, "done"), point
        assert seen["served"] == expected, point
        assert seen["left_over"] == [], point
    counted = {"points": list(killed), "seed": 5, "resumed_to_the_same_weights": len(killed), "served_half_a_model": 0}
    record_result("training_killed", counted)
