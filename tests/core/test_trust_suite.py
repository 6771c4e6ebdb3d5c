"""Suite `trust` and the calibration, on simulated patients, with an editor whose error is known."""

import dataclasses

import breasts
import numpy as np
import pytest

from cfmri_core.data.studies import list_studies, load_slices
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.evaluation import calibration, trust_suite
from cfmri_core.evaluation.calibration import EditPlan, calibrate_edits, calibrate_support
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.evaluation.trust_suite import TrustSuite
from cfmri_core.io.nifti import read_nifti
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.trust import Trust
from cfmri_core.pipeline.uncertainty import UncertaintyCalibration, write_uncertainty
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

TARGET = PRESETS["siemens-avanto-1.5t"]
ERROR = 0.05


class Editor:
    """Knows the truth of each patient and misses it by noise that the seed decides."""

    spec = breasts.SPEC
    sha256 = "editor"

    def __init__(self, studies):
        self.truths = [read_nifti(study.paired["avanto"] / "truth.nii.gz") for study in studies]

    def edit(self, volume, factual, request, editor):
        whole = next(truth for truth in self.truths if _holds(truth, volume))
        first = round(float((volume.affine[2, 3] - whole.affine[2, 3]) / whole.affine[2, 2]))
        truth = whole.voxels[:, :, first : first + volume.shape[2]]
        unit = float(np.ptp(np.percentile(truth, [10, 99])))
        noise = np.random.default_rng(request.seed).normal(0, ERROR * unit, truth.shape)
        evidence = {"seed": request.seed, "slices": [0, truth.shape[2]], "slice_axis": "k", "method": request.method}
        return Counterfactual(volume.with_voxels((truth + noise).astype(np.float32)), TARGET, evidence)


def _holds(truth, volume):
    """The truth of this very patient: its anatomy explains the scan best."""
    if truth.shape[:2] != volume.shape[:2]:
        return False
    first = round(float((volume.affine[2, 3] - truth.affine[2, 3]) / truth.affine[2, 2]))
    part = truth.voxels[:, :, first : first + volume.shape[2]]
    body = part > np.percentile(part, 60)
    return np.corrcoef(body.ravel(), (volume.voxels > np.percentile(volume.voxels, 60)).ravel())[0, 1] > 0.8


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("trust")
    plan = StudyPlan(paired={"same": "same", "avanto": "siemens-avanto-1.5t"}, slab_mm=10)
    simulate_dataset(root, 2, 300, plan)
    return list_studies(root)


@pytest.fixture(scope="module")
def predictor():
    predictor = breasts.small_predictor()
    predictor.sha256 = "predictor"
    return predictor


@pytest.fixture(scope="module")
def editor(studies):
    return Editor(studies)


@pytest.fixture
def known_error(editor, monkeypatch):
    for module in (trust_suite, calibration):
        monkeypatch.setattr(module, "edit_volume", editor.edit)


def test_a_calibrated_editor_covers_nine_tenths_and_the_gate_is_measured(
    studies, editor, predictor, known_error, tmp_path
):
    plan = EditPlan(method="inversion", replays=3, slices=3)
    fitted, limits = calibrate_edits(studies, editor, tmp_path, plan)
    assert fitted.subjects == limits.subjects == 2
    slices = load_slices(studies, breasts.SIZE)
    learned = calibrate_support(slices, slices, [(editor, tmp_path)], predictor, tmp_path / "predictor")
    assert learned["training_subjects"] == learned["held_back_subjects"] == 2
    trust = Trust.of(editor, tmp_path, (predictor, tmp_path / "predictor"))
    suite = TrustSuite(trust, editor, method="inversion", replays=3, slices=3)
    result = run_suite(suite, studies, tmp_path / "out.partial")
    assert result.aggregate["edit"]["inversion"]["coverage"].mean == pytest.approx(0.9, abs=0.1)
    assert result.aggregate["edit"]["inversion"]["refused"].mean <= 1
    assert {"second scan", "unedited source"} <= set(result.aggregate["edit"])
    gate = result.aggregate["out of support"]
    assert gate["header of a spin echo"]["flagged"].mean == 1
    assert gate["combination never seen"]["flagged"].patients == 2
    assert set(result.aggregate["in support"]["gate"]) >= {"flagged", "warned", "flagged by source"}
    assert suite.settings["uncertainty_calibrated_on"] == 2


def test_a_study_without_pairs_is_left_out(studies, editor):
    alone = dataclasses.replace(studies[0], paired={})
    assert TrustSuite(Trust(breasts.SPEC), editor).evaluate(alone, with_pictures=False) is None
    with pytest.raises(RequestError, match="--paired"):
        calibrate_edits([alone], editor, alone.scan_path, EditPlan())


def test_a_calibration_of_one_method_keeps_that_of_another(studies, editor, known_error, tmp_path):
    for method in ("paper", "inversion"):
        calibrate_edits(studies[:1], editor, tmp_path, EditPlan(method=method, replays=2, slices=2))
    assert set(Trust.of(editor, tmp_path).uncertainty) == {"paper", "inversion"}


def test_a_calibration_of_other_weights_gives_way_and_a_damaged_one_is_named_before_the_work(
    studies, editor, known_error, tmp_path
):
    write_uncertainty(tmp_path, {"paper": UncertaintyCalibration({}, 1.0, 2, 1)}, "of other weights")
    calibrate_edits(studies[:1], editor, tmp_path, EditPlan(method="inversion", replays=2, slices=2))
    assert set(Trust.of(editor, tmp_path).uncertainty) == {"inversion"}
    (tmp_path / "uncertainty.json").write_text("{}")
    seen = []
    with pytest.raises(CheckpointError, match=r"uncertainty\.json"):
        calibrate_edits(studies[:1], editor, tmp_path, EditPlan(), progress=lambda *step: seen.append(step))
    assert not seen
