"""`lesion-study` at the smallest size: the protocol, not the quality."""

import json

import pytest

from cfmri_core.simulation.study import StudyPlan, simulate_dataset

SLAB_MM = 24.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A patient with a lesion to learn from, one without, one to test on."""
    root = tmp_path_factory.mktemp("lesion-study")
    plans = {"real": (1, 1, 1), "healthy": (1, 11, 0), "test": (1, 31, 1)}
    for name, (count, seed, lesions) in plans.items():
        simulate_dataset(root / name, count, seed, StudyPlan(lesions=lesions, enhanced=True, slab_mm=SLAB_MM))
    return root


def common(folders, output):
    return ("lesion-study", folders / "real", "--healthy", folders / "healthy", "--test", folders / "test",
            "--output", output, "--lesions", 1, "--seeds", 1, "--iterations", 1, "--batch-size", 2,
            "--inserted-per-scan", 1, "--steps", 1, "--device", "cpu")  # fmt: skip


def test_a_study_goes_on_and_writes_tables(cfmri, folders, tmp_path):
    first = cfmri(*common(folders, tmp_path), "--arms", "none")
    assert first.code == 0, first.err
    second = cfmri(*common(folders, tmp_path), "--arms", "none,inserted+classical", "--json")
    assert second.code == 0, second.err
    result = second.json()
    assert [(run["arm"], run["seed"]) for run in result["runs"]] == [("inserted+classical", 0), ("none", 0)]
    assert result["runs"][0]["inserted"] == 1
    assert result["runs"][0]["real"] == result["runs"][1]["real"]
    assert result["settings"]["lesions"] == 1
    assert json.loads((tmp_path / "result.json").read_text())["n_patients"] == 1
    assert "what the editor learned elsewhere" in (tmp_path / "table.md").read_text()
    other = cfmri(*common(folders, tmp_path), "--iterations", 2)
    assert other.code == 2
    assert "other settings" in other.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--arms", "magic"), "'magic' is not an arm"),
        (("--part", "half"), "is not a part"),
        (("--method", "magic"), "'magic' is not a method"),
        (("--lesions", 9), "9 are wanted"),
    ],
)
def test_what_cannot_be_studied_is_refused(cfmri, folders, tmp_path, options, words):
    outcome = cfmri(*common(folders, tmp_path / "s"), *options)
    assert outcome.code == 2
    assert words in outcome.err


def test_training_on_the_test_patients_is_refused(cfmri, folders, tmp_path):
    outcome = cfmri(*common(folders, tmp_path / "s"), "--test", folders / "healthy")
    assert outcome.code == 2
    assert "in the training and in the test data" in outcome.err


def test_scans_with_lesions_are_no_healthy_ones(cfmri, folders, tmp_path):
    outcome = cfmri(*common(folders, tmp_path / "s"), "--healthy", folders / "real")
    assert outcome.code == 2
    assert "sub-0001 has a lesion mask" in outcome.err


def test_without_a_tissue_segmenter_no_place_can_be_found(cfmri, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("cfmri_core.pipeline.lesion_region.tissue_segmenter", lambda *_: None)
    outcome = cfmri(*common(folders, tmp_path / "s"))
    assert outcome.code != 0
    assert "no tissue segmenter" in outcome.err
