"""Scores of edits by predictions, on predictions made up by hand."""

import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError
from cfmri_core.evaluation.fooling import PUBLISHED, fooling_score, fooling_table, is_fooling_metric, scoring_predictor
from cfmri_core.evaluation.statistics import Interval
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.simulation.protocols import PRESETS

RANGES = {"echo_time_ms": (1.2, 2.7), "repetition_time_ms": (3.0, 7.0)}
FACTUAL = AcquisitionParameters(
    manufacturer="GE", manufacturer_model="HDx", field_strength_t=3.0, echo_time_ms=2.4, repetition_time_ms=5.0
)


def category(shares):
    return {"value": max(shares, key=shares.get), "probabilities": shares}


def prediction(avanto, echo=2.4, repetition=5.0):
    return {
        "manufacturer": category({"GE": 1 - avanto, "SIEMENS": avanto}),
        "manufacturer_model": category({"HDx": 1 - avanto, "Avanto": avanto}),
        "field_strength_t": {"value": 3.0, "probabilities": {"1.5": 0.0, "3.0": 1.0}},
        "echo_time_ms": {"value": echo, "probabilities": None},
        "repetition_time_ms": {"value": repetition, "probabilities": None},
    }


def test_a_reached_target_and_what_moved_besides():
    requested = FACTUAL.replaced({"manufacturer": "SIEMENS", "manufacturer_model": "Avanto", "echo_time_ms": 1.4})
    scores = fooling_score(prediction(0.1), prediction(0.9, echo=1.5, repetition=5.4), FACTUAL, requested, RANGES)
    assert scores == pytest.approx({
        "manufacturer fooled": 1,
        "manufacturer prediction gain": 0.8,
        "manufacturer_model fooled": 1,
        "manufacturer_model prediction gain": 0.8,
        "field_strength_t moved": 0,
        "echo_time_ms fooling squared error": 0.01,
        "repetition_time_ms moved": 0.1,
    })  # fmt: skip
    assert all(map(is_fooling_metric, scores))


def test_an_edit_that_changes_nothing_gains_nothing():
    requested = FACTUAL.replaced({"manufacturer_model": "Avanto", "field_strength_t": 1.5})
    scores = fooling_score(prediction(0.1), prediction(0.1), FACTUAL, requested, RANGES)
    assert scores["manufacturer_model fooled"] == scores["field_strength_t fooled"] == 0
    assert scores["manufacturer_model prediction gain"] == scores["field_strength_t prediction gain"] == 0


def test_an_untouched_category_moves_by_the_probability_that_went_elsewhere():
    requested = FACTUAL.replaced({"echo_time_ms": 1.4})
    scores = fooling_score(prediction(0.1), prediction(0.4), FACTUAL, requested, RANGES)
    assert scores["manufacturer_model moved"] == pytest.approx(0.3)


def test_a_category_the_predictor_does_not_know_is_not_scored():
    requested = FACTUAL.replaced({"manufacturer_model": "Skyra"})
    scores = fooling_score(prediction(0.1), prediction(0.4), FACTUAL, requested, RANGES)
    assert not any(name.startswith("manufacturer_model") for name in scores)


def test_the_table_stands_beside_the_published_figures():
    arms = {
        "inversion": {"psnr_db": Interval(20, 19, 21, 9), "field_strength_t fooled": Interval(0.9, 0.8, 1.0, 9)},
        "second scan": {"field_strength_t fooled": Interval(0.99, 0.9, 1.0, 9)},
    }
    table = fooling_table(arms)
    assert table.header[:3] == ["score", "inversion", "second scan"]
    assert table.texts()[1] == ("field_strength_t fooled", "0.9 [0.8, 1]", "0.99 [0.9, 1]", "0.769")
    assert len(table.rows) == 1
    assert all(map(is_fooling_metric, PUBLISHED))


def test_the_scoring_predictor_comes_from_its_folder_or_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match="--preset scoring"):
        scoring_predictor(folder=tmp_path / "none")
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    IapPredictor.create("scoring", spec).save(tmp_path / "scoring", "# Card")
    assert scoring_predictor(folder=tmp_path / "scoring").preset == "scoring"
