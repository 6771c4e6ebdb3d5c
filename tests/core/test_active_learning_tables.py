import numpy as np
import pytest

from cfmri_core.active_learning.next_case import DISAGREEMENT, RANDOM
from cfmri_core.evaluation.active_learning_study import Campaign, Round
from cfmri_core.evaluation.active_learning_tables import (
    FinishedCampaigns,
    comparisons,
    curves,
    labels_needed,
    saved_share,
    summary,
)
from cfmri_core.evaluation.summary_table import markdown
from cfmri_core.io.json_text import json_text

LABELS = (4, 8, 12, 40)


def as_curve(*dice, patients=3):
    return [np.full((1, patients), value) for value in dice]


def test_labels_needed_are_read_off_the_curve_between_trainings():
    assert labels_needed(LABELS, *as_curve(0.80, 0.86, 0.89, 0.90)) == pytest.approx(12)
    assert labels_needed(LABELS, *as_curve(0.80, 0.88, 0.90, 0.90)) == pytest.approx(8.0 + 4 * 0.5)
    assert labels_needed(LABELS, *as_curve(0.70, 0.70, 0.70, 0.90)) == pytest.approx(12 + 28 * 0.19 / 0.20)


def test_who_starts_at_the_goal_needs_no_more_labels():
    assert labels_needed(LABELS, *as_curve(0.895, 0.86, 0.88, 0.90)) == pytest.approx(4)


def test_the_first_crossing_counts():
    assert labels_needed(LABELS, *as_curve(0.80, 0.91, 0.85, 0.90)) == pytest.approx(4 + 4 * 0.09 / 0.11)


def test_saved_is_a_share_of_what_random_needs():
    fast, slow = as_curve(0.80, 0.89, 0.89, 0.90), as_curve(0.80, 0.82, 0.89, 0.90)
    assert saved_share(LABELS, *fast, *slow) == pytest.approx([1 - 8 / 12])
    assert saved_share(LABELS, *slow, *slow) == pytest.approx([0])


@pytest.fixture
def study():
    """Two seeds, four patients, two scanner models: disagreement is there at 8 labels, random at 12."""
    rng = np.random.default_rng(0)
    campaigns = {}
    for strategy, dice in ((RANDOM, (0.80, 0.82, 0.892, 0.90)), (DISAGREEMENT, (0.80, 0.892, 0.895, 0.90))):
        for seed in (0, 1):
            rounds = []
            for count, value in zip(LABELS, dice, strict=True):
                patients = {
                    f"p{n}": {m: {"mean dice": value + 1e-4 * rng.random()} for m in ("X1", "X2")} for n in range(4)
                }
                rounds.append(Round(tuple(f"case-{k}" for k in range(count)), patients))
            campaigns[Campaign(strategy, seed)] = rounds
    return FinishedCampaigns(campaigns)


def test_a_strategy_is_compared_with_random_over_seeds_and_patients(study):
    (found,) = comparisons(study).values()
    assert 4 < found.labels_needed.value < 8 < found.labels_needed_by_random.value < 12
    assert found.saved.low <= found.saved.value <= found.saved.high
    assert found.saved.value == pytest.approx(1 - found.labels_needed.value / found.labels_needed_by_random.value)
    assert (found.saved.patients, found.saved.seeds) == (4, 2)
    assert found.dice_gain.value == pytest.approx((0.892 - 0.82 + 0.895 - 0.892) / 2, abs=1e-3)


def test_curves_hold_every_training_and_scanner(study):
    points = curves(study)[RANDOM]
    assert [point.labels for point in points] == list(LABELS)
    assert set(points[0].by_scanner) == {"X1", "X2"}
    assert points[-1].dice.value == pytest.approx(0.90, abs=1e-3)


def test_result_and_table_say_what_was_reached(study):
    text = markdown(summary(study)["tables"])
    assert "| all scanners alike | counterfactual_disagreement |" in text
    assert "Labels saved, %" in text
    assert '"goal"' in json_text(summary(study))
    assert len(summary(study)["labelled"]) == 4
