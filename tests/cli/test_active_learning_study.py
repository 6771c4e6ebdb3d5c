"""`active-learning-study` at the smallest size: the protocol, not the quality."""

import json

import pytest

from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pool in two folders, and one test patient on two scanners."""
    root = tmp_path_factory.mktemp("active")
    for name, seed in (("one", 1), ("two", 11)):
        simulate_dataset(root / name, 2, seed, StudyPlan(slab_mm=5))
    simulate_dataset(root / "test", 1, 31, StudyPlan(paired={"trio": "siemens-trio-3t"}, slab_mm=5))
    return root


def test_a_study_goes_on_and_writes_tables(cfmri, folders, tmp_path):
    common = ("active-learning-study", folders / "one", folders / "two", "--test", folders / "test", "--output",
              tmp_path, "--start", 1, "--step", 1, "--most", 2, "--iterations", 1, "--batch-size", 2,
              "--seeds", 1, "--device", "cpu")  # fmt: skip
    first = cfmri(*common, "--strategies", "random")
    assert first.code == 0, first.err
    second = cfmri(*common, "--json")
    assert second.code == 0, second.err
    result = second.json()
    assert set(result["curves"]) == {"random", "acquisition_coverage", "counterfactual_disagreement"}
    assert [point["labels"] for point in result["curves"]["random"]] == [1, 2, 4]
    assert result["settings"]["augmentation"] == "none"
    assert {name for item in result["labelled"] for name in item["cases"][-1]} <= {
        f"{folder}/sub-000{number}" for folder in ("one", "two") for number in (1, 2)
    }
    assert json.loads((tmp_path / "result.json").read_text())["n_patients"] == 1
    assert "Labels saved, %" in (tmp_path / "table.md").read_text()
    other = cfmri(*common, "--augmentation", "classical")
    assert other.code == 2
    assert "other settings" in other.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--strategies", "magic"), "no strategy 'magic'"),
        (("--augmentation", "magic"), "not an augmentation"),
        (("--part", "half"), "is not a part"),
        (("--start", "9", "--most", "8"), "cannot be"),
    ],
)
def test_what_cannot_be_studied_is_refused(cfmri, folders, tmp_path, options, words):
    common = ("active-learning-study", folders / "one", "--test", folders / "test", "--output", tmp_path / "s")
    outcome = cfmri(*common, *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_choosing_from_the_test_patients_is_refused(cfmri, folders, tmp_path):
    outcome = cfmri("active-learning-study", folders / "one", "--test", folders / "one", "--output", tmp_path / "s")
    assert outcome.code == 2
    assert "in the training and in the test data" in outcome.err
