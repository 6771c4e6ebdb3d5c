"""Comparing a candidate with the model in use."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.evaluation import candidate
from cfmri_core.evaluation.candidate import Comparison, compare
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import PRESETS as EDITORS
from cfmri_core.models.editor import Editor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

KINDS = ("segmenter", "iap_predictor", "editor")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    simulate_dataset(root, 2, 71_000, StudyPlan(slab_mm=8.0))
    return list_studies(root)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("untrained")
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Segmenter.create("tiny").save(root / "segmenter", "")
    IapPredictor.create("tiny", spec).save(root / "iap_predictor", "")
    Editor.create("tiny", spec).save(root / "editor", "")
    return root


@pytest.fixture(autouse=True)
def few_noise_levels(monkeypatch):
    monkeypatch.setattr(candidate, "_EDITOR_SLICES", 2)
    monkeypatch.setattr(candidate, "_EDITOR_LEVELS", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_model_is_worse_than_the_shipped_one_and_not_the_other_way_round(kind, studies, untrained):
    worse = compare(kind, untrained / kind, locate_model(kind), studies)
    better = compare(kind, locate_model(kind), untrained / kind, studies)
    same = compare(kind, locate_model(kind), locate_model(kind), studies[:1])
    assert not worse.is_good_enough
    assert better.is_good_enough
    assert same.is_good_enough
    assert (worse.candidate, worse.current) == (better.current, better.candidate)
    assert worse.patients == 2


def scores(new, old, higher_is_better=True):
    return Comparison(metric="Dice", higher_is_better=higher_is_better, candidate=new, current=old, patients=3)


@pytest.mark.parametrize(
    ("new", "old", "higher_is_better", "good"),
    [
        (0.80, 0.80, True, True), (0.793, 0.80, True, True), (0.791, 0.80, True, False), (0.9, 0.8, True, True),
        (0.201, 0.2, False, True), (0.203, 0.2, False, False), (0.1, 0.2, False, True),
        (0.1, None, True, True), (None, 0.1, True, False), (None, None, True, False), (0.0, 0.0, True, True),
    ],
)  # fmt: skip
def test_one_per_cent_worse_is_the_limit(new, old, higher_is_better, good):
    assert scores(new, old, higher_is_better).is_good_enough is good


def test_both_scores_are_told():
    assert str(scores(0.71, 0.8)) == "Dice 0.710 on 3 held-back patients, the model in use 0.800"
    assert str(scores(0.71, None)) == "Dice 0.710 on 3 held-back patients"


def test_the_first_model_of_a_kind_has_nothing_to_be_worse_than(studies, untrained):
    assert compare("segmenter", untrained / "segmenter", None, studies[:1]).is_good_enough


def test_without_held_back_studies_nothing_is_known(untrained):
    comparison = compare("segmenter", untrained / "segmenter", untrained / "segmenter", [])
    assert not comparison.is_good_enough
    assert "Too few patients that no training has seen" in str(comparison)


def test_editors_of_other_image_sizes_are_not_compared(tmp_path, studies, untrained):
    config = dataclasses.replace(EDITORS["tiny"], image_size=64)
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    Editor(ConditionalUNet(config, spec.width), spec, config).save(tmp_path / "smaller", "")
    comparison = compare("editor", tmp_path / "smaller", untrained / "editor", studies[:1])
    assert not comparison.is_good_enough
    assert "another size" in str(comparison)


def test_a_scanner_that_a_predictor_does_not_know_counts_as_an_error():
    truth = AcquisitionParameters(manufacturer_model="Avanto", echo_time_ms=2.0)
    predicted = {
        "manufacturer_model": {"value": "Signa", "probabilities": {"Signa": 1.0}},
        "echo_time_ms": {"value": 2.5, "probabilities": None},
    }
    assert candidate._prediction_errors(predicted, truth) == [1.0, 0.25]


def test_other_kinds_are_refused(untrained):
    with pytest.raises(RequestError):
        compare("direct_editor", untrained / "editor", None, [])
