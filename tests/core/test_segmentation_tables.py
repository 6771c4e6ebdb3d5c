"""Sums of a study whose figures are made up, so that the answers are known."""

import csv
import io

import numpy as np
import pytest

from cfmri_core.evaluation.segmentation_study import Run
from cfmri_core.evaluation.segmentation_tables import (
    PRIMARY,
    FinishedStudy,
    by_model,
    cases_csv,
    effects,
    gaps_closed,
    markdown,
    summary,
    table,
)
from cfmri_core.io.json_text import json_text

#: Mean Dice by direction and arm: in domain, out of domain.
DICE = {
    ("ge-to-siemens", "none"): (0.90, 0.70),
    ("ge-to-siemens", "classical"): (0.90, 0.76),
    ("ge-to-siemens", "counterfactual+classical"): (0.90, 0.79),
    ("siemens-to-ge", "none"): (0.88, 0.72),
    ("siemens-to-ge", "classical"): (0.88, 0.80),
    ("siemens-to-ge", "counterfactual+classical"): (0.88, 0.80),
    ("both", "none"): (0.80, 0.80),
}
TRAINED = {"ge-to-siemens": "GE", "siemens-to-ge": "SIEMENS", "both": "GE"}
PATIENTS = 12
MODELS = ("Avanto", "TrioTim")


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    patients = 0.03 * rng.standard_normal(PATIENTS)
    runs = {}
    for (direction, arm), (inside, outside) in DICE.items():
        for seed in range(3):
            runs[Run(direction, arm, seed)] = {
                f"p{number:02d}": {
                    maker: metrics((inside if maker == TRAINED[direction] else outside) + patients[number], rng)
                    for maker in ("GE", "SIEMENS", f"SIEMENS {MODELS[number % 2]}")
                }
                for number in range(PATIENTS)
            }
    return FinishedStudy(runs)


def metrics(dice, rng):
    shaken = dice + 0.002 * rng.standard_normal()
    return {"mean dice": shaken, "fat dice": shaken + 0.1, "fibroglandular dice": shaken - 0.1, "fat hd95_mm": None}


def test_the_table_has_in_domain_first_and_the_mean_over_seeds_and_patients(study):
    cells = {(cell.direction, cell.arm, cell.test): cell.metrics for cell in table(study)}
    assert next(iter(cells)) == ("ge-to-siemens", "none", "GE")
    found = cells["ge-to-siemens", "none", "SIEMENS"]["mean dice"]
    assert found.value == pytest.approx(0.70, abs=0.02)
    assert found.low < found.value < found.high
    assert (found.patients, found.seeds) == (PATIENTS, 3)
    assert ("both", "none", "both") in cells


def test_the_primary_comparison_is_one_family_over_both_directions(study):
    found = effects(study, [PRIMARY])
    assert len(found) == 2
    ge, siemens = found.values()
    assert ge.median_difference.value == pytest.approx(0.03, abs=0.004)
    assert ge.test.p < 0.001
    assert ge.test.p_holm == pytest.approx(2 * ge.test.p)
    assert siemens.test.p > 0.01
    assert ge.mean_difference.low > 0.02


def test_in_domain_differences_are_measured_on_the_training_vendor(study):
    for effect in effects(study, [PRIMARY], in_domain=True).values():
        assert effect.mean_difference.value == pytest.approx(0, abs=0.003)


def test_the_share_of_the_gap_is_relative_to_training_on_both(study):
    shares = gaps_closed(study)
    assert shares["ge-to-siemens: counterfactual+classical"].value == pytest.approx(0.9, abs=0.05)
    assert shares["siemens-to-ge: classical"].value == pytest.approx(1.0, abs=0.05)
    assert not any(name.endswith(": none") for name in shares)


def test_markdown_shows_the_papers_figures_beside_ours(study):
    text = markdown(study)
    row = next(line for line in text.splitlines() if line.startswith("| GE | SIEMENS | none |"))
    assert "0.860 / 0.555 / 0.730" in row
    assert "Share of the gap" in text
    assert "Primary comparison" in text
    assert text.count("| GE + SIEMENS |") == 3


def test_models_are_told_apart_and_do_not_count_twice(study):
    cells = {(cell.test, cell.arm): cell.metrics["mean dice"] for cell in by_model(study)}
    assert {test for test, _ in cells} == {"SIEMENS Avanto", "SIEMENS TrioTim"}
    assert cells["SIEMENS TrioTim", "none"].patients == PATIENTS / 2
    assert "### Out of domain by scanner model" in markdown(study)
    (both,) = (cell for cell in table(study) if cell.test == "both")
    expected = [study.values("both", "none", test, "mean dice", [0, 1, 2]).mean() for test in ("GE", "SIEMENS")]
    assert both.metrics["mean dice"].value == pytest.approx(sum(expected) / 2)


def test_an_unfinished_study_sums_up_what_it_has(study):
    some = FinishedStudy({run: measured for run, measured in study.runs.items() if run.arm == "none" and run.seed < 1})
    assert effects(some, [PRIMARY]) == {}
    assert gaps_closed(some) == {}
    assert "p (Holm)" not in markdown(some)
    assert '"n_patients": 12' in json_text(summary(some))


def test_every_case_is_a_line_of_the_csv(study):
    rows = list(csv.DictReader(io.StringIO(cases_csv(study))))
    assert len(rows) == len(DICE) * 3 * PATIENTS * 3
    assert float(rows[0]["mean dice"]) == pytest.approx(
        study.runs[Run("ge-to-siemens", "none", 0)]["p00"]["GE"]["mean dice"]
    )
