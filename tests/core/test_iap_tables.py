"""Tables of predictions, from predictions made up by hand."""

import math

import pytest

from cfmri_core.evaluation.iap_tables import expected_calibration_error, prediction_tables
from cfmri_core.evaluation.suite import PatientResult

GE = {"manufacturer": "GE", "manufacturer_model": "HDx", "field_strength_t": 3.0, "scan_options": "FS"}
SIEMENS = {"manufacturer": "SIEMENS", "manufacturer_model": "Avanto", "field_strength_t": 1.5, "scan_options": "SFS"}


def fact(scanner, echo, predicted_echo, model=None):
    predicted = {"manufacturer_model": {"value": model or scanner["manufacturer_model"], "confidence": 0.75}}
    predicted["echo_time_ms"] = {"value": predicted_echo, "interval": [predicted_echo - 0.1, predicted_echo + 0.1]}
    return {"truth": {**scanner, "echo_time_ms": echo}, "predicted": predicted}


def patient(number, facts):
    cases = {case: {"predictor": {"manufacturer_model accuracy per slice": 0.5}} for case in facts}
    return PatientResult(f"sub-{number}", cases, facts=facts)


@pytest.fixture
def tables():
    """A predictor that reads only the vendor: 2.4 ms for GE, 1.4 ms for Siemens."""
    results = [
        patient(1, {"scan": fact(GE, 2.3, 2.4), "avanto": fact(SIEMENS, 1.4, 1.4)}),
        patient(2, {"scan": fact(GE, 2.4, 2.4), "avanto": fact(SIEMENS, 1.2, 1.4, model="HDx")}),
        patient(3, {"scan": fact(GE, 2.5, 2.4)}),
    ]
    return {table.name: table for table in prediction_tables(results)}


def row(table, name):
    return next(dict(zip(table.header, row, strict=True)) for row in table.rows if row[0] == name)


def test_figures_stand_beside_the_published_ones(tables):
    table = tables["against the published predictor"]
    model, echo = row(table, "manufacturer_model"), row(table, "echo_time_ms")
    assert (model["scans"].mean, model["paired renderings"].mean, model["scans"].patients) == (1, 0.5, 3)
    assert model["single slices of scans"].mean == 0.5
    assert model["Morão et al., Table 1"] == 0.989
    assert echo["figure"] == "mean squared error, ms²"
    assert echo["scans"].mean == pytest.approx(0.02 / 3)
    assert math.isnan(row(table, "flip_angle_deg")["scans"].mean)


def test_manufacturers_and_cells_stand_apart(tables):
    model = row(tables["per manufacturer"], "manufacturer_model")
    assert model["GE, scans"].mean == 1
    assert model["SIEMENS, paired renderings"].mean == 0.5
    cell = row(tables["per cell"], "SIEMENS Avanto, 1.5 T, SFS")
    assert (cell["volumes"], cell["manufacturer_model accuracy"]) == (2, 0.5)


def test_a_predictor_that_reads_the_vendor_explains_nothing_within_cells(tables):
    echo = row(tables["within cells"], "echo_time_ms")
    assert echo["volumes"] == 3
    assert echo["variance within cells"] == pytest.approx(0.02 / 3)
    assert echo["share explained"] == pytest.approx(0)


def test_calibration_is_given_for_probabilities_and_intervals(tables):
    table = tables["calibration"]
    assert row(table, "manufacturer_model")["scans"] == pytest.approx(0.25)
    assert row(table, "manufacturer_model")["paired renderings"] == pytest.approx(0.25)
    assert row(table, "echo_time_ms")["paired renderings"] == pytest.approx(0.5)


def test_calibration_error_is_the_mean_gap_over_bins():
    assert expected_calibration_error([0.95, 0.95, 0.55, 0.55], [1, 1, 1, 0]) == pytest.approx(0.05)
    assert expected_calibration_error([1.0, 1.0], [1, 0]) == pytest.approx(0.5)
    assert math.isnan(expected_calibration_error([], []))
