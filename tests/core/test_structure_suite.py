"""Suite `structure` on simulated patients, with an untrained editor and a judge that stands in for a second one."""

import json

import glands
import numpy as np
import pytest

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.evaluation.result_file import ResultFile
from cfmri_core.evaluation.structure_case import StructureCase, StructurePatient
from cfmri_core.evaluation.structure_suite import (
    MORPHOLOGY,
    RENDERING,
    SOURCE,
    StructureSuite,
    scoring_segmenter,
)
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.evaluation.summary import evaluation_page
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline import structure_images
from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("structure")
    plan = StudyPlan(paired={"less": "share:-0.2", "more": "share:0.2"}, slab_mm=6)
    simulate_dataset(root, 2, 350900, plan)
    return list_studies(root)


@pytest.fixture(scope="module")
def judge():
    return Segmenter.load(locate_model("segmenter"))


@pytest.fixture(scope="module")
def result(studies, judge, tmp_path_factory):
    editor = glands.quick_editor(Segmenter.load(locate_model("segmenter")))
    partial = tmp_path_factory.mktemp("suite") / "partial"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(structure_images, "GUIDED_STEPS", 2)
        return run_suite(StructureSuite(editor, judge, slices=2, kinds=("20 %",)), studies, partial, pictures=1)


def test_every_arm_is_measured_in_every_case(result):
    arms = set(result.aggregate["20 %"])
    assert arms >= {
        "seg-cft",
        "reg-cft",
        "guidance",
        "not fine-tuned",
        "seg-cft, one edit",
        MORPHOLOGY,
        SOURCE,
        RENDERING,
    }
    assert set(result.patients[0].cases) == {"share:-0.2", "share:+0.2"}


def test_doing_nothing_is_as_far_off_as_the_change_that_was_asked(result):
    source = result.patients[0].cases["share:+0.2"][SOURCE]
    assert source["share_error_percent"] == pytest.approx(100 * (1 - 1 / 1.2))
    assert source["response"] == source["largest_change_outside"] == source["far_fat_shift_percent"] == 0


def test_the_untrained_editor_changes_nothing_outside_the_breast_it_finds(result):
    for patient in result.patients:
        for arms in patient.cases.values():
            assert arms["seg-cft"]["largest_change_outside_own_breast"] == 0


def test_aims_and_response_are_tabulated_and_shown_on_the_page(result, tmp_path):
    names = [table.name for table in result.tables]
    assert names[0] == "aims"
    assert "response" in names
    (tmp_path / "structure.json").write_text(result.to_json({"command": "cfmri evaluate"}))
    page = evaluation_page(tmp_path)
    assert "More or less fibroglandular tissue" in page
    assert "| seg-cft |" in page
    assert ResultFile("structure", json.loads((tmp_path / "structure.json").read_text())).patients == 2


def test_the_worst_patient_is_pictured(result):
    assert sum(bool(patient.pictures) for patient in result.patients) == 1


def test_a_shift_of_far_fat_is_seen(studies, judge):
    patient = StructurePatient.read(studies[0], judge)
    case = StructureCase.read(patient, studies[0].changed["more"])
    fat = patient.labels.voxels == 1
    brighter = patient.volume.with_voxels(np.where(fat, patient.volume.voxels + 10, patient.volume.voxels))
    means = [patient.volume.voxels[patient.labels.voxels == label].mean() for label in (1, 2)]
    measured = case.measured(brighter)
    assert measured["far_fat_shift_percent"] == pytest.approx(1000 / abs(means[1] - means[0]), rel=1e-3)
    assert measured["largest_change_outside"] == 0


def test_studies_without_changed_shares_say_what_is_needed(studies, judge, tmp_path):
    bare = [type(study)(study.subject_id, study.scan_path, study.labels_path) for study in studies]
    editor = glands.quick_editor(judge)
    with pytest.raises(RequestError, match="No study has what the suite 'structure' needs"):
        run_suite(StructureSuite(editor, judge), bare, tmp_path / "partial")


def test_without_a_scoring_segmenter_it_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match="--preset scoring"):
        scoring_segmenter(folder=tmp_path / "none")
