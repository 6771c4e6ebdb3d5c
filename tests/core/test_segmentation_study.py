import itertools
import json

import numpy as np
import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, list_studies
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.segmentation_study import (
    LabelledScan,
    Run,
    complete_runs,
    finished_runs,
    load_test_scans,
    measure,
    planned_runs,
    require_same_settings,
)
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.volume import Volume

ALL = ("ge-to-siemens", "siemens-to-ge", "both")


@pytest.fixture
def scans():
    rng = np.random.default_rng(0)
    labels = Volume(rng.integers(0, 3, (24, 24, 2)).astype(np.uint8), np.eye(4))
    volume = Volume(rng.random((24, 24, 2)).astype(np.float32), np.eye(4))
    makers = [("a", "GE"), ("a", "SIEMENS"), ("a", "SIEMENS"), ("b", "GE")]
    return [LabelledScan(patient, maker, "X1", volume, labels) for patient, maker in makers]


@pytest.fixture
def trainer():
    """Counts trainings; the segmenter is untrained."""
    torch.manual_seed(0)
    segmenter = Segmenter.create("tiny")

    def train(vendors, arm, seed, folder, progress):
        if (arm, seed) == train.stop_at:
            raise KeyboardInterrupt
        train.trained.append((vendors, arm, seed))
        return segmenter

    train.trained, train.stop_at = [], None
    return train


def test_runs_go_seed_by_seed_and_parts_share_them_out():
    runs = planned_runs(ALL, ["none", "classical"], 5, (1, 1))
    assert len(runs) == len(set(runs)) == 30
    assert {run.seed for run in runs[:6]} == {0}
    parts = [planned_runs(ALL, ["none", "classical"], 5, (part, 4)) for part in (1, 2, 3, 4)]
    assert sorted(itertools.chain.from_iterable(parts), key=str) == sorted(runs, key=str)
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(RequestError, match="no part"):
            planned_runs(ALL, ["none"], 1, wrong)
    with pytest.raises(RequestError, match="'north' is not known"):
        planned_runs(["north"], ["none"], 1, (1, 1))


def test_scans_of_one_patient_on_one_vendor_are_averaged(scans):
    torch.manual_seed(0)
    measured = measure(Segmenter.create("tiny"), scans)
    assert {patient: set(makers) for patient, makers in measured.items()} == {
        "a": {"GE", "GE X1", "SIEMENS", "SIEMENS X1"}, "b": {"GE", "GE X1"},
    }  # fmt: skip
    assert measured["a"]["SIEMENS"] == pytest.approx(measured["a"]["GE"], nan_ok=True)
    assert "mean dice" in measured["b"]["GE"]


def test_an_interrupted_study_goes_on_and_trains_nothing_twice(scans, trainer, tmp_path):
    runs = planned_runs(ALL[:2], ["none", "classical"], 2, (1, 1))
    trainer.stop_at = ("classical", 1)
    with pytest.raises(KeyboardInterrupt):
        complete_runs(runs, scans, trainer, tmp_path)
    assert len(finished_runs(tmp_path)) == len(trainer.trained) == 5
    trainer.stop_at = None
    complete_runs(runs, scans, trainer, tmp_path)
    complete_runs(runs, scans, trainer, tmp_path)
    assert len(trainer.trained) == len(set(trainer.trained)) == 8
    assert set(finished_runs(tmp_path)) == set(runs)
    assert trainer.trained[0] == (("GE",), "none", 0)


def test_a_damaged_result_is_named(scans, trainer, tmp_path):
    complete_runs([Run("both", "none", 0)], scans, trainer, tmp_path)
    (path,) = tmp_path.rglob("result.json")
    path.write_text(json.dumps({"arm": "none"}))
    with pytest.raises(RequestError, match="is not the result of a run"):
        finished_runs(tmp_path)
    with pytest.raises(RequestError, match="no complete run"):
        finished_runs(tmp_path / "runs" / "elsewhere")


def test_another_study_is_not_mixed_in(tmp_path):
    require_same_settings(tmp_path / "settings.json", {"iterations": 600})
    require_same_settings(tmp_path / "settings.json", {"iterations": 600})
    with pytest.raises(RequestError, match="other settings"):
        require_same_settings(tmp_path / "settings.json", {"iterations": 700})


def test_test_scans_know_their_vendor(tmp_path):
    volume = Volume(np.random.default_rng(0).random((8, 8, 3)).astype(np.float32), np.eye(4))
    for name, maker in (("a", "GE MEDICAL SYSTEMS"), ("b", "Siemens Healthineers")):
        write_nifti(tmp_path / f"{name}.nii.gz", volume, sidecar_of(AcquisitionParameters(manufacturer=maker)))
        write_nifti(
            tmp_path / "labels" / "final" / f"{name}.nii.gz", Volume(np.ones((8, 8, 3), np.uint8), np.eye(4)), None
        )
    scans = load_test_scans(list_studies(tmp_path))
    assert [(scan.vendor, scan.model) for scan in scans] == [("GE", "unknown model"), ("SIEMENS", "unknown model")]
    with pytest.raises(RequestError, match="No test study has labels"):
        load_test_scans([Study("a", tmp_path / "a.nii.gz")])
