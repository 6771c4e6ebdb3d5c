"""The suite of the predictor, untrained, on two simulated studies."""

import json

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import list_studies
from cfmri_core.evaluation.iap_suite import IapSuite, prediction_errors, slice_errors
from cfmri_core.evaluation.suite import run_suite
from cfmri_core.evaluation.suite_report import suite_report
from cfmri_core.models.calibration import Calibration
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
TRUTH = PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    simulate_dataset(root, 2, 5200, StudyPlan(paired={"avanto": "siemens-avanto-1.5t"}, slab_mm=8.0))
    return list_studies(root)


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    predictor = IapPredictor.create("scoring", SPEC)
    predictor.calibration = Calibration(half_widths={"echo_time_ms": 10.0})
    return predictor


def test_scans_and_renderings_are_measured_in_figures_and_tables(studies, predictor, tmp_path):
    result = run_suite(IapSuite(predictor), studies, tmp_path / "out.partial")
    assert set(result.patients[0].cases) == {"scan", "avanto"}
    assert set(result.aggregate) == {"scans", "paired renderings"}
    assert "echo_time_ms squared error per slice" in result.aggregate["scans"]["predictor"]
    written = json.loads(result.to_json({}))
    tables = {table["name"]: table for table in written["tables"]}
    assert len(tables) == 5
    assert ["echo_time_ms", "coverage of the 90 % interval", 1.0, 1.0] in tables["calibration"]["rows"]
    assert ["flip_angle_deg", "coverage of the 90 % interval", None, None] in tables["calibration"]["rows"]
    report = suite_report(result, {})
    assert {"Against the published predictor", "Within cells", "Calibration"} <= {
        part.title for part in report.sections
    }


def test_an_interrupted_run_gives_the_same_tables(studies, predictor, tmp_path):
    class Breaking(IapSuite):
        def evaluate(self, study, with_pictures):
            if study.subject_id == "sub-0002":
                raise KeyboardInterrupt
            return super().evaluate(study, with_pictures)

    whole = run_suite(IapSuite(predictor), studies, tmp_path / "whole.partial")
    with pytest.raises(KeyboardInterrupt):
        run_suite(Breaking(predictor), studies, tmp_path / "out.partial")
    resumed = run_suite(IapSuite(predictor), studies, tmp_path / "out.partial")
    assert resumed.to_json({}) == whole.to_json({})


def test_errors_are_hits_and_squares_of_what_is_known():
    predicted = {
        "manufacturer_model": {"value": "Avanto", "probabilities": {"Avanto": 0.6}},
        "echo_time_ms": {"value": 1.5, "probabilities": None},
        "flip_angle_deg": {"value": 9.0, "probabilities": None},
    }
    truth = AcquisitionParameters(manufacturer_model="Avanto", echo_time_ms=1.4, repetition_time_ms=4.0)
    errors = prediction_errors(predicted, truth)
    assert errors == pytest.approx({"manufacturer_model accuracy": 1, "echo_time_ms squared error": 0.01})


def test_slices_are_judged_one_by_one(predictor):
    outputs = {name: torch.zeros(2, len(SPEC.categories.get(name, (0,)))) for name in ATTRIBUTES}
    outputs["manufacturer_model"][0, SPEC.categories["manufacturer_model"].index("Avanto")] = 5.0
    outputs["manufacturer_model"][1, SPEC.categories["manufacturer_model"].index("TrioTim")] = 5.0
    assert slice_errors(outputs, TRUTH, predictor)["manufacturer_model accuracy per slice"] == 0.5
