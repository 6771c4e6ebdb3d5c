import itertools
import json

import numpy as np
import pytest
import torch

from cfmri_core.active_learning.next_case import COVERAGE, DISAGREEMENT, RANDOM, Case
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.active_learning_study import (
    Budget,
    Campaign,
    complete_campaigns,
    finished_campaigns,
    measure,
    planned_campaigns,
    starting_set,
)
from cfmri_core.evaluation.segmentation_study import LabelledScan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]
BUDGET = Budget(start=2, step=2, most=6)


class UntrainedPool:
    """Counts trainings; disagreement is the number in a case's name."""

    def __init__(self):
        self.cases = [Case(f"case-{number:02d}", SIEMENS if number == 3 else GE) for number in range(8)]
        self.trained, self.stop_after = [], None

    def train(self, names, seed, folder, progress):
        if len(self.trained) == self.stop_after:
            raise KeyboardInterrupt
        self.trained.append((seed, tuple(names)))
        torch.manual_seed(seed)
        Segmenter.create("tiny").save(folder / "model", "Untrained.")
        return Segmenter.load(folder / "model")

    def disagreements(self, segmenter, names):
        return {name: float(name[-2:]) / 10 for name in names}


@pytest.fixture
def pool():
    return UntrainedPool()


@pytest.fixture(scope="module")
def scans():
    rng = np.random.default_rng(0)
    labels = Volume(rng.integers(0, 3, (16, 16, 2)).astype(np.uint8), np.eye(4))
    volume = Volume(rng.random((16, 16, 2)).astype(np.float32), np.eye(4))
    scanners = [("a", "X1"), ("a", "X1"), ("a", "X2"), ("b", "X1")]
    return [LabelledScan(patient, "GE", model, volume, labels) for patient, model in scanners]


def test_parts_share_the_seeds_out():
    planned = planned_campaigns([RANDOM, COVERAGE], 5, (1, 1))
    assert len(planned) == 10
    parts = [planned_campaigns([RANDOM, COVERAGE], 5, (part, 2)) for part in (1, 2)]
    assert {item.seed for item in parts[0]} == {0, 2, 4}
    assert sorted(itertools.chain(*parts), key=str) == sorted(planned, key=str)
    with pytest.raises(RequestError, match="no strategy 'magic'"):
        planned_campaigns(["magic"], 1, (1, 1))
    with pytest.raises(RequestError, match="no part 3 of 2"):
        planned_campaigns([RANDOM], 1, (3, 2))


def test_a_budget_that_cannot_be_is_refused(pool, scans, tmp_path):
    with pytest.raises(RequestError, match="from 4 to 2"):
        Budget(start=4, most=2)
    with pytest.raises(RequestError, match="pool has 8 cases"):
        complete_campaigns([Campaign(RANDOM, 0)], pool, scans, Budget(most=12), tmp_path)


def test_every_strategy_starts_alike_and_ends_with_all_labels(pool, scans, tmp_path):
    complete_campaigns(planned_campaigns([RANDOM, COVERAGE, DISAGREEMENT], 2, (1, 1)), pool, scans, BUDGET, tmp_path)
    found = finished_campaigns(tmp_path)
    assert len(found) == 6
    for seed in (0, 1):
        start = tuple(case.name for case in starting_set(pool.cases, 2, seed))
        for strategy in (RANDOM, COVERAGE, DISAGREEMENT):
            rounds = found[Campaign(strategy, seed)]
            assert [len(item.labelled) for item in rounds] == [2, 4, 6, 8]
            assert rounds[0].labelled == start
            sets = [set(item.labelled) for item in rounds]
            assert all(small < large for small, large in itertools.pairwise(sets))
        first = set(found[Campaign(COVERAGE, seed)][1].labelled) - set(start)
        assert "case-03" in {*first, *start}
        left = sorted(case.name for case in pool.cases if case.name not in start)
        assert left[-1] in found[Campaign(DISAGREEMENT, seed)][1].labelled
    assert len(pool.trained) == len(set(pool.trained))


def test_an_interrupted_study_goes_on_and_trains_nothing_twice(pool, scans, tmp_path):
    campaigns = planned_campaigns([RANDOM, DISAGREEMENT], 1, (1, 1))
    pool.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        complete_campaigns(campaigns, pool, scans, BUDGET, tmp_path)
    assert set(finished_campaigns(tmp_path)) == {Campaign(RANDOM, 0)}
    pool.stop_after = None
    complete_campaigns(campaigns, pool, scans, BUDGET, tmp_path)
    complete_campaigns(campaigns, pool, scans, BUDGET, tmp_path)
    assert set(finished_campaigns(tmp_path)) == set(campaigns)
    assert len(pool.trained) == len(set(pool.trained))


def test_scans_of_one_patient_on_one_scanner_are_averaged(scans):
    torch.manual_seed(0)
    measured = measure(Segmenter.create("tiny"), scans)
    assert {patient: set(models) for patient, models in measured.items()} == {"a": {"X1", "X2"}, "b": {"X1"}}
    assert measured["a"]["X1"] == pytest.approx(measured["b"]["X1"])


def test_a_damaged_campaign_is_named(tmp_path):
    with pytest.raises(RequestError, match="no complete campaign"):
        finished_campaigns(tmp_path)
    path = Campaign(RANDOM, 0).path(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"strategy": RANDOM}))
    with pytest.raises(RequestError, match="is not the result of a campaign"):
        finished_campaigns(tmp_path)
