"""`segmentation-study`, with an untrained editor: the protocol, not the quality."""

import json
from dataclasses import replace

import pytest

from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two training subjects of each vendor, and one test patient scanned by both."""
    root = tmp_path_factory.mktemp("study")
    for name, seed in (("GE MEDICAL SYSTEMS", 1), ("SIEMENS", 11)):
        simulate_dataset(root / name, 2, seed, StudyPlan(changes={"manufacturer": name}, slab_mm=5))
    simulate_dataset(root / "test", 1, 31, StudyPlan(paired={"other": "other-manufacturer"}, slab_mm=5))
    return ("--training", root / "GE MEDICAL SYSTEMS", "--training", root / "SIEMENS"), root / "test"


@pytest.fixture
def quick_edits(monkeypatch):
    from cfmri_core.pipeline.method import METHODS

    monkeypatch.setitem(METHODS, "inversion", replace(METHODS["inversion"], steps=1))


def test_a_study_goes_on_and_writes_tables(cfmri, folders, models, tmp_path, quick_edits):
    training, test = folders
    common = ("segmentation-study", test, *training, "--output", tmp_path / "study", "--seeds", 1,
              "--iterations", 1, "--batch-size", 2, "--per-volume", 1, "--device", "cpu")  # fmt: skip
    first = cfmri(*common, "--arms", "none,counterfactual+classical", "--part", "1/2")
    assert first.code == 0, first.err
    second = cfmri(*common, "--arms", "none,counterfactual+classical", "--json")
    assert second.code == 0, second.err
    result = second.json()
    assert len(result["runs"]) == 6
    assert {(cell["direction"], cell["test"]) for cell in result["table"]} >= {("ge-to-siemens", "SIEMENS")}
    assert result["settings"]["population"] == "other-manufacturer"
    written = tmp_path / "study"
    assert json.loads((written / "result.json").read_text())["n_patients"] == 1
    assert "0.860 / 0.555 / 0.730" in (written / "table.md").read_text()
    assert (written / "cases.csv").read_text().count("\n") == 6 * 4 + 1
    other = cfmri(*common, "--arms", "counterfactual+classical", "--population", "duke")
    assert other.code == 2
    assert "other settings" in other.err
    unconcerned = cfmri(*common, "--arms", "none", "--population", "duke", "--json")
    assert unconcerned.code == 0, unconcerned.err
    assert unconcerned.json()["settings"]["population"] == "other-manufacturer"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arms", "none,magic"), "'magic' is not an augmentation"),
        (("--directions", "north"), "'north' is not known"),
        (("--part", "half"), "is not a part"),
        (("--population", "mars"), "is not a population"),
        (("--method", "magic"), "'magic' is not a method"),
    ],
)
def test_what_cannot_be_studied_is_refused(cfmri, folders, models, tmp_path, options, words):
    training, test = folders
    outcome = cfmri("segmentation-study", test, *training, "--output", tmp_path / "s", *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_training_on_the_test_patients_is_refused(cfmri, folders, models, tmp_path):
    training, _ = folders
    outcome = cfmri("segmentation-study", training[1], *training, "--output", tmp_path / "s")
    assert outcome.code == 2
    assert "2 scans are in the training and in the test data" in outcome.err
