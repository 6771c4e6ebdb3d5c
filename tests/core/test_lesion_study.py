import itertools

import numpy as np
import pytest
from lesions import lesion_mask, lesion_segmenter, scan_without

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation import lesion_study
from cfmri_core.evaluation.lesion_study import (
    FinishedRun,
    LesionRun,
    LesionTestScan,
    complete_runs,
    finished_runs,
    lesion_agreement,
    load_lesion_test_scans,
    measure,
    planned_runs,
)
from cfmri_core.io.nifti import write_nifti
from cfmri_core.training.lesion_arms import TrainedArm

ARMS = ["none", "inserted"]


@pytest.fixture
def scan():
    volume = scan_without()
    return LesionTestScan("a", volume, lesion_mask(), np.ones(volume.shape, bool))


@pytest.fixture
def trainer():
    """Counts trainings; the segmenter is untrained."""

    def train(arm, seed, folder, progress):
        if (arm, seed) == train.stop_at:
            raise KeyboardInterrupt
        train.trained.append((arm, seed))
        return TrainedArm(lesion_segmenter(), ["s1", "s2"], inserted=5 * (arm == "inserted"), skipped=1)

    train.trained, train.stop_at = [], None
    return train


def test_parts_share_the_seeds_out():
    runs = planned_runs(ARMS, 5, (1, 1))
    assert len(runs) == len(set(runs)) == 10
    assert {run.seed for run in runs[:2]} == {0}
    parts = [planned_runs(ARMS, 5, (part, 2)) for part in (1, 2)]
    assert {run.seed for run in parts[0]} == {0, 2, 4}
    assert sorted(itertools.chain(*parts), key=str) == sorted(runs, key=str)
    with pytest.raises(RequestError, match="no part 3 of 2"):
        planned_runs(ARMS, 1, (3, 2))


def test_an_interrupted_study_goes_on(scan, trainer, tmp_path):
    runs = planned_runs(ARMS, 2, (1, 1))
    trainer.stop_at = ("none", 1)
    with pytest.raises(KeyboardInterrupt):
        complete_runs(runs, [scan], trainer, tmp_path)
    trainer.stop_at = None
    told = []
    complete_runs(runs, [scan], trainer, tmp_path, lambda *step: told.append(step))
    assert sorted(trainer.trained) == sorted((run.arm, run.seed) for run in runs)
    assert told[-1] == (4, 4, "run 4 of 4, inserted seed 1: done")
    found = finished_runs(tmp_path)
    assert set(found) == set(runs)
    assert (found[LesionRun("inserted", 1)].inserted, found[LesionRun("none", 0)].inserted) == (5, 0)
    assert set(found[runs[0]].patients) == {"a"}
    assert isinstance(found[runs[0]], FinishedRun)


def test_a_damaged_or_absent_result_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no complete run"):
        finished_runs(tmp_path)
    path = LesionRun("none", 0).folder(tmp_path) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"arm": "none"}')
    with pytest.raises(RequestError, match="not the result of a run"):
        finished_runs(tmp_path)


def test_the_true_mask_gets_the_best_marks(scan):
    assert lesion_agreement(scan.lesion, scan) == {"dice": 1.0, "found": 1.0, "false_positives": 0.0}
    nothing = np.zeros_like(scan.lesion)
    assert lesion_agreement(nothing, scan) == {"dice": 0.0, "found": 0.0, "false_positives": 0.0}


def test_findings_are_told_from_specks_and_count_once(scan):
    predicted = np.zeros_like(scan.lesion)
    predicted[28:32, 10:12, 2:4] = True  # 0.26 ml, no lesion there
    predicted[20, 5, 1] = True  # 0.02 ml
    predicted[8, 17, 2] = True  # in the lesion, but no more than a speck
    found = lesion_agreement(predicted, scan)
    assert (found["found"], found["false_positives"]) == (0, 1)
    assert 0 < found["dice"] < 0.1
    predicted[7:11, 16:18, 2] = True
    found = lesion_agreement(predicted, scan)
    assert (found["found"], found["false_positives"]) == (1, 1)


def test_of_two_lesions_one_found_is_half(scan):
    lesion = scan.lesion.copy()
    lesion[26:30, 16:20, 2:4] = True
    both = LesionTestScan("a", scan.volume, lesion, scan.breast)
    assert lesion_agreement(scan.lesion, both)["found"] == 0.5


def test_findings_count_in_the_breast_and_scans_of_a_patient_are_averaged(scan, monkeypatch):
    monkeypatch.setattr(lesion_study, "lesion_probability", lambda volume, _: np.ones(volume.shape, np.float32))
    in_lesion = LesionTestScan("a", scan.volume, scan.lesion, scan.lesion)
    found = measure(lesion_segmenter(), [scan, in_lesion])
    everywhere = lesion_agreement(scan.breast, scan)["dice"]
    assert found["a"]["dice"] == pytest.approx((1 + everywhere) / 2)


def test_test_patients_are_read_with_lesion_and_breast(tmp_path):
    volume, mask, labels = scan_without(), lesion_mask(), np.zeros(scan_without().shape, np.uint8)
    labels[4:12, 10:16] = 1
    for name, voxels in {"s": volume.voxels, "m": mask.astype(np.uint8), "l": labels}.items():
        write_nifti(tmp_path / f"{name}.nii.gz", volume.with_voxels(voxels), None)
    paths = {name: tmp_path / f"{name}.nii.gz" for name in "sml"}
    with_labels = Study("a", paths["s"], labels_path=paths["l"], lesion_path=paths["m"], patient_id="p")
    without = Study("b", paths["s"], lesion_path=paths["m"])
    first, second = load_lesion_test_scans([with_labels, without, Study("c", paths["s"])])
    assert (first.patient, second.patient) == ("p", "b")
    assert np.array_equal(first.breast, (labels > 0) | mask)
    assert second.breast.all()
    with pytest.raises(RequestError, match="No test study has a lesion mask"):
        load_lesion_test_scans([Study("c", paths["s"])])
