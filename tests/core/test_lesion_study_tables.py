"""Sums of a study whose figures are made up, so that the answers are known."""

import json

import numpy as np
import pytest

from cfmri_core.evaluation.lesion_study import DICE, FALSE_POSITIVES, FOUND, FinishedRun, LesionRun
from cfmri_core.evaluation.lesion_study_tables import (
    ARMS,
    PRIMARY,
    SECONDARY,
    FinishedLesionStudy,
    arm_means,
    effects,
    summary,
)
from cfmri_core.evaluation.summary import evaluation_page
from cfmri_core.evaluation.summary_table import markdown
from cfmri_core.io.json_text import json_text
from cfmri_core.training.lesion_arms import LESION_ARMS

MEANS = {"none": 0.40, "classical": 0.50, "inserted": 0.55, "inserted+classical": 0.60}
PATIENTS, SEEDS = 12, 3


def finished(dice, rng, patients, skipped=0):
    found = {
        f"p{number:02d}": {DICE: dice + shift + 0.002 * rng.standard_normal(), FOUND: 1.0, FALSE_POSITIVES: 1 - dice}
        for number, shift in enumerate(patients)
    }
    return FinishedRun(found, [f"s{n}" for n in range(10)], inserted=60 - skipped if skipped else 0, skipped=skipped)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    patients = 0.05 * rng.standard_normal(PATIENTS)
    return {
        LesionRun(arm, seed): finished(dice, rng, patients, skipped=2 * arm.startswith("inserted"))
        for arm, dice in MEANS.items()
        for seed in range(SEEDS)
    }


@pytest.fixture(scope="module")
def study(runs):
    return FinishedLesionStudy(runs)


def test_the_arms_are_those_that_are_trained(study):
    assert tuple(study.arms) == ARMS == LESION_ARMS


def test_means_are_over_seeds_and_patients(study):
    for arm, metrics in arm_means(study).items():
        assert metrics[DICE].value == pytest.approx(MEANS[arm], abs=0.04)
        assert metrics[DICE].low < metrics[DICE].value < metrics[DICE].high
        assert (metrics[DICE].patients, metrics[DICE].seeds) == (PATIENTS, SEEDS)


def test_the_primary_comparison_is_a_family_of_its_own(study):
    (one,) = effects(study, [PRIMARY]).values()
    assert one.mean_difference.value == pytest.approx(0.10, abs=0.002)
    assert one.mean_difference.low > 0.095
    assert one.test.p == one.test.p_holm < 0.001
    others = effects(study, SECONDARY)
    assert list(others) == [f"{first} - {second}" for first, second in SECONDARY]
    assert others["inserted - none"].test.p_holm == pytest.approx(len(SECONDARY) * others["inserted - none"].test.p)


def test_only_seeds_of_both_arms_are_compared(runs):
    some = {run: value for run, value in runs.items() if run != LesionRun("classical", 2)}
    (one,) = effects(FinishedLesionStudy(some), [PRIMARY]).values()
    assert one.mean_difference.seeds == 2
    assert FinishedLesionStudy(some).seeds(*ARMS) == [0, 1]


def test_an_unfinished_study_sums_up_what_it_has(runs):
    some = {run: value for run, value in runs.items() if run.arm == "none"}
    found = summary(FinishedLesionStudy(some))
    assert found["comparisons"]["primary"] == {}
    assert json.loads(json_text(found))["n_patients"] == PATIENTS


def test_the_tables_say_what_was_reached_and_what_is_brought_in(study):
    text = markdown(summary(study)["tables"])
    assert "| Dice, primary | inserted+classical - classical | 0.1" in text
    assert "| false positives | inserted+classical - classical | -0.1" in text
    assert "| none | 0.4" in text
    assert "| 10 | 58 |" in text
    assert "could not be made: 2." in text
    assert "what the editor learned elsewhere is what is brought in" in text
    assert "| 2 | 0." in text


def test_the_page_shows_the_result_file(study, tmp_path):
    content = {"suite": "lesion-study", "provenance": {}, "settings": {}, **summary(study)}
    (tmp_path / "lesion-study.json").write_text(json_text(content))
    page = evaluation_page(tmp_path)
    assert "## Training with inserted lesions" in page
    assert "inserted+classical - classical" in page
    assert f"patients {PATIENTS}" in page
