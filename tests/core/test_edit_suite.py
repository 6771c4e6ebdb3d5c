"""Suite `edit` on simulated patients, with editors whose result is known."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import CheckpointError, GeometryError, RequestError
from cfmri_core.evaluation import edit_suite
from cfmri_core.evaluation.classical import ReferencePopulation
from cfmri_core.evaluation.edit_case import EditCase, Patient, case_kind, normalised
from cfmri_core.evaluation.edit_suite import EditSuite, family_of, load_editors, primary_comparisons
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.evaluation.suite_report import suite_report
from cfmri_core.io.nifti import write_nifti
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.volume import Volume

PAIRED = {"same": "same", "vendor": "other-manufacturer", "grid": "decorrelated", "te": "single:echo_time_ms"}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("edit")
    simulate_dataset(root, 2, 61, StudyPlan(paired=PAIRED, slab_mm=12))
    return list_studies(root)


@dataclass
class NoEditor:
    reach = 0
    identity: str = "none"


POPULATION = ReferencePopulation("default", seeds=(991_001,), slab_mm=6.0)
EDITORS = {"inversion": NoEditor(), "paper": NoEditor()}


def unchanged(volume, factual, request, _editor):
    return Counterfactual(volume, factual.replaced(request.changes), {"network_evaluations_per_slice": 1})


@pytest.fixture
def idle(monkeypatch):
    """Every method leaves the source as it is."""
    monkeypatch.setattr(edit_suite, "edit_volume", unchanged)
    monkeypatch.setattr(edit_suite, "_population", lambda setting: POPULATION)


@pytest.fixture(scope="module")
def first(studies):
    """Result of the first patient with methods that leave the source as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edit_suite, "edit_volume", unchanged)
        patch.setattr(edit_suite, "_population", lambda setting: POPULATION)
        return EditSuite(EDITORS).evaluate(studies[0], with_pictures=False)


def test_kinds_of_targets():
    assert [case_kind(target) for target in ("same", "other-manufacturer", "single:echo_time_ms", {"a": 1}, None)] == [
        "null edit",
        "cross-vendor",
        "single echo_time_ms",
        "other",
        "other",
    ]


def test_the_truth_is_perfect_and_the_source_recovers_nothing(first):
    assert first.kinds == {"vendor": "cross-vendor", "grid": "decorrelated", "te": "single echo_time_ms"}
    for arms in first.cases.values():
        truth, source, exact, second = (arms[arm] for arm in ("truth", "source", "exact change", "second scan"))
        assert truth["psnr_db"] == np.inf
        assert truth["z_jitter_ratio"] == truth["gradient_to_source_ratio"] == pytest.approx(1.0)
        assert truth["slope_noise_free"] == pytest.approx(1.0, abs=1e-5)
        assert truth["psnr_noise_free_db"] == np.inf
        assert source["slope_noise_free"] == pytest.approx(0.0, abs=1e-5)
        assert exact["slope_noise_free"] == pytest.approx(1.0, abs=1e-3)
        assert exact["psnr_noise_free_db"] > exact["psnr_db"] > source["psnr_db"]
        assert exact["gradient_to_clean_ratio"] == pytest.approx(1.0, abs=1e-3)
        assert second["excess_rmse"] == 0
        assert "slope_noise_free" not in second
        assert source["ssim_source"] == pytest.approx(1.0)
        assert source["contrast_error"] >= 0


def test_methods_are_measured_with_cost_and_way_back(first):
    cases = first.cases
    assert cases["vendor"]["inversion"]["there_and_back_db"] == np.inf
    assert cases["vendor"]["inversion"]["evaluations_per_slice"] == 1
    assert np.isfinite(cases["vendor"]["inversion"]["there_and_back_to_clean_db"])
    assert "there_and_back_db" not in cases["grid"]["inversion"]
    assert "paper" in cases["grid"]
    assert "paper" not in cases["te"]


def test_the_scoring_predictor_judges_every_arm(studies, monkeypatch, idle, tmp_path):
    def predict(volume, predictor):
        return {"field_strength_t": {"value": 3.0, "probabilities": {"3.0": 0.9, "1.5": 0.1}}}

    monkeypatch.setattr(edit_suite, "predict_acquisition", predict)
    scorer = IapPredictor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values())))
    suite = EditSuite(EDITORS, ("inversion",), kinds=("cross-vendor",), scorer=scorer)
    result = run_suite(suite, studies, tmp_path / "out.partial", pictures=0)
    arms = result.patients[0].cases["vendor"]
    assert all(any(name.startswith("field_strength_t") for name in values) for values in arms.values())
    assert [table.name for table in result.tables] == ["fooling: cross-vendor"]


def test_fewer_slices_and_other_kinds_on_request(studies, idle):
    patient = Patient.read(studies[0], 3)
    assert patient.volume.shape[2] == patient.mask.shape[2] == patient.clean.shape[2] == 3
    suite = EditSuite(EDITORS, ("inversion",), kinds=("null edit",), slices=3)
    result = suite.evaluate(studies[0], with_pictures=False)
    assert set(result.cases) == {"same"}
    assert np.isnan(result.cases["same"]["source"]["slope_noise_free"])
    nothing = EditSuite(EDITORS, ("inversion",), kinds=("duke",))
    assert nothing.evaluate(studies[0], with_pictures=False) is None


def test_an_editor_that_looks_at_neighbours_gets_all_slices_and_is_measured_on_few(studies, idle, monkeypatch):
    seen = []

    def unchanged_and_seen(volume, *rest):
        seen.append(volume.shape[2])
        return unchanged(volume, *rest)

    monkeypatch.setattr(edit_suite, "edit_volume", unchanged_and_seen)
    looking = NoEditor()
    looking.reach = 1
    whole = Patient.read(studies[0]).volume.shape[2]
    for editor, expected in ((NoEditor(), 3), (looking, whole)):
        seen.clear()
        suite = EditSuite({"inversion": editor}, ("inversion",), kinds=("cross-vendor",), slices=3)
        measured = suite.evaluate(studies[0], with_pictures=False).cases["vendor"]["inversion"]
        assert set(seen) == {expected}
        assert measured["there_and_back_db"] == np.inf


def test_the_report_sums_up_every_kind(studies, idle, tmp_path):
    suite = EditSuite(EDITORS, slices=4)
    result = run_suite(suite, studies, tmp_path / "out.partial", pictures=1)
    report = suite_report(result, {"command": "x"})
    titles = [section.title for section in report.sections]
    assert titles[:3] == [
        "All patients: cross-vendor",
        "All patients: decorrelated",
        "All patients: single echo_time_ms",
    ]
    assert sum(title.startswith("Patient ") for title in titles) == 1
    assert any("no learning" in row[0] for row in report.sections[0].blocks[0].rows)
    written = json.loads(result.to_json({}))
    assert written["settings"]["families"]["paper"] == "learned from unpaired scans"


def test_what_learned_from_pairs_is_told_apart():
    assert family_of("fast") == family_of("fast, noise removed") == "learned from simulated pairs"
    assert family_of("paper") == "learned from unpaired scans"
    assert family_of("source") == family_of("affine to tissue means") == "no learning"
    names = [comparison.name for comparison in primary_comparisons()]
    assert len(names) == len(set(names))
    assert "slope_noise_free: inversion - paper (cross-vendor)" in names


def test_a_truth_on_another_grid_is_refused(studies, tmp_path):
    patient = Patient.read(studies[0])
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "study.json").write_text((studies[0].paired["te"] / "study.json").read_text())
    moved = patient.volume.affine.copy()
    moved[0, 3] += 5
    write_nifti(folder / "truth.nii.gz", Volume(patient.volume.voxels, moved), None)
    with pytest.raises(GeometryError, match="another grid"):
        EditCase.read(patient, folder)


def test_normalised_units_are_the_volumes_own(studies):
    voxels = normalised(Patient.read(studies[0]).volume)
    assert np.percentile(voxels, [10, 99]) == pytest.approx([0, 1], abs=1e-5)


def test_models_are_loaded_once_and_only_where_there_are_some(tmp_path):
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Editor.create("tiny", spec).save(tmp_path / "editor", "Untrained, for tests.")
    editors = load_editors(root=tmp_path)
    assert set(editors) == {"inversion", "paper"}
    assert editors["inversion"] is editors["paper"]
    assert EditSuite(editors).edits == ("inversion", "paper")
    with pytest.raises(CheckpointError, match="direct_editor"):
        load_editors(("fast, noise removed",), tmp_path)
    with pytest.raises(RequestError, match="'nothing' is not a method"):
        load_editors(("nothing",), tmp_path)
