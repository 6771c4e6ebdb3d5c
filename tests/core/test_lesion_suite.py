import json

import numpy as np
import pytest
from lesions import lesion_editor, lesion_segmenter, palette_editor

from cfmri_core.data.studies import list_studies
from cfmri_core.evaluation import lesion_tables
from cfmri_core.evaluation.fooling import scoring_predictor
from cfmri_core.evaluation.lesion_suite import CLASSICAL, REAL, UNEDITED, LesionSuite
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.pipeline import lesion_method
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

PLAN = StudyPlan(paired={"without-lesion": "without-lesions"}, lesions=1, enhanced=True, slab_mm=14)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("lesion-suite")
    simulate_dataset(root / "studies", 1, 299100, PLAN)
    suite = LesionSuite(
        {"lesion_editor": lesion_editor(), "palette_editor": palette_editor()},
        lesion_segmenter(),
        scoring_predictor(),
        None,
        methods=("mededit", "palette"),
    )
    steps = {
        name: lesion_method.LesionMethod(**{**vars(method), "steps": 1})
        for name, method in lesion_method.LESION_METHODS.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lesion_method, "LESION_METHODS", steps)
        patch.setattr("cfmri_core.pipeline.lesion_editing._FRAME_PIXELS", -40)
        return run_suite(suite, list_studies(root / "studies"), root / "partial")


def test_every_arm_is_measured_and_outside_nothing_changes(result):
    (patient,) = result.patients
    assert set(patient.cases) == {"by mask", "by box", "removal"}
    assert set(patient.cases["by mask"]) == set(patient.cases["by box"]) == {"mededit", "palette", REAL}
    assert set(patient.cases["removal"]) == {"mededit", "palette", CLASSICAL, UNEDITED}
    for case in ("by mask", "by box", "removal"):
        for method in ("mededit", "palette"):
            assert patient.cases[case][method]["outside_max"] == 0
    assert patient.pictures


def test_the_result_file_holds_tables_and_is_json(result):
    content = json.loads(result.to_json({}))
    assert [table["name"] for table in content["tables"]] == ["Inserted lesions", "Aims"]
    assert content["n_patients"] == 1


def test_distances_are_least_between_sets_that_are_alike():
    rng = np.random.default_rng(0)
    sets = [
        {"real": rng.normal(0, 1, (3, 4)), "good": rng.normal(0, 1, (3, 4)), "bad": rng.normal(1.5, 1, (3, 4))}
        for _ in range(24)
    ]
    floor, good, bad = (lesion_tables._distances(sets, name, "real")[0] for name in ("real", "good", "bad"))
    assert abs(good - floor) < 0.3 * (bad - floor)
    assert np.isnan(lesion_tables._distances(sets[:2], "real", "real")).all()
