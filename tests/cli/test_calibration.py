"""`calibrate` and suite `trust`, with untrained models: the protocol, not the quality."""

import json
import shutil

import pytest

from cfmri_core.evaluation import calibration, trust_suite
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.pipeline import counterfactual
from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture
def quick_edits(monkeypatch):
    """Two denoising steps instead of the methods' own number."""
    real = counterfactual.EditRequest
    for module in (calibration, trust_suite):
        monkeypatch.setattr(module, "EditRequest", lambda **settings: real(**settings, steps=2))


def test_what_is_calibrated_is_used_by_edit_and_by_suite_trust(cfmri, studies, model_folder, tmp_path, quick_edits):
    models = tmp_path / "models"
    shutil.copytree(model_folder, models)
    here = ("--model", models, "--device", "cpu")
    learned = cfmri("calibrate", "support", studies, studies, *here, "--json").json()
    assert learned["training_subjects"] == 2
    assert (models / "editor" / "support.json").is_file()
    assert (models / "iap_predictor" / "support.json").is_file()
    learned = cfmri("calibrate", "edits", studies, *here, "--slices", 2, "--replays", 2, "--json").json()
    assert learned["uncertainty"]["subjects"] == 2
    assert 0 <= learned["anatomy"]["agreement"] < 1
    series = studies / "sub-0001" / "dicom"
    options = ("--preset", "siemens-trio-3t", "--slices", "1:3", "--uncertainty", 2, "--json", *here)
    evidence = cfmri("edit", series, tmp_path / "o.nii.gz", *options).json()
    assert evidence["uncertainty"]["calibrated"] is True
    other = cfmri("edit", series, tmp_path / "other.nii.gz", "--steps", 2, *options).json()
    assert other["uncertainty"]["calibrated"] is False
    assert other["uncertainty"]["calibration_subjects"] == 2
    assert set(evidence["support"]["parts"]) == {"source", "requested", "header"}
    result = tmp_path / "trust.json"
    outcome = cfmri("evaluate", studies, "--suite", "trust", "--json", result, "--slices", 2, "--limit", 1, *here)
    assert outcome.code == 0, outcome.err
    written = json.loads(result.read_text())
    assert 0 <= written["aggregate"]["edit"]["inversion"]["coverage"]["mean"] <= 1
    assert written["aggregate"]["out of support"]["header of a spin echo"]["flagged"]["mean"] == 1


def test_without_pairs_edits_cannot_be_calibrated(cfmri, studies, models, tmp_path):
    alone = tmp_path / "studies" / "sub-0001"
    alone.mkdir(parents=True)
    (alone / "dicom").symlink_to(studies / "sub-0001" / "dicom")
    outcome = cfmri("calibrate", "edits", alone.parent, "--model", models, "--device", "cpu")
    assert outcome.code == 2
    assert "--paired" in outcome.err


def test_scanners_are_fitted_to_scans_without_labels_or_pairs(cfmri, tmp_path):
    models, scans = tmp_path / "models", tmp_path / "scans"
    for number, model in enumerate(("Avanto", "TrioTim"), 1):
        maker = {"manufacturer": "SIEMENS", "manufacturer_model": model}
        simulate_dataset(tmp_path / model, 1, 600 + number, StudyPlan(slab_mm=16, changes=maker))
        shutil.copytree(tmp_path / model / "sub-0001", scans / f"sub-000{number}")
    shutil.copytree(scans / "sub-0001", scans / "sub-0003")
    for image in (scans / "sub-0003" / "dicom").iterdir():
        image.write_bytes(image.read_bytes()[:400])
    learned = cfmri(
        "calibrate", "scanners", scans, "--output", models, "--device", "cpu", "--simulated", 10, "--json"
    ).json()
    assert learned["patients"] == {"Avanto": 1, "TrioTim": 1}
    assert learned["left_out"] == {"cannot be read": 1}
    assert all(abs(value) < 1 for value in learned["log_fat_left"].values())
    assert DirectEditor.load(models / "direct_editor").scanners.log_fat_left == learned["log_fat_left"]
    assert (models / "iap_predictor" / "model.json").is_file()
    again = cfmri("calibrate", "scanners", scans, "--output", models, "--device", "cpu")
    assert again.code == 2
    assert "exists already" in again.err


def test_one_scanner_model_cannot_be_compared(cfmri, tmp_path):
    simulate_dataset(tmp_path / "scans", 1, 600, StudyPlan(slab_mm=16))
    outcome = cfmri("calibrate", "scanners", tmp_path / "scans", "--output", tmp_path / "models", "--device", "cpu")
    assert outcome.code == 2
    assert "two models" in outcome.err
    assert not (tmp_path / "models").exists()
