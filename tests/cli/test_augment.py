"""`augment`, with an untrained editor."""

from dataclasses import replace

import pytest


@pytest.fixture
def quick_edits(monkeypatch):
    from cfmri_core.pipeline.method import METHODS

    monkeypatch.setitem(METHODS, "inversion", replace(METHODS["inversion"], steps=1))


def test_pairs_are_written_and_counted(cfmri, studies, models, tmp_path, quick_edits):
    out = tmp_path / "pairs"
    outcome = cfmri("augment", studies, out, "--per-volume", 1, "--limit", 1, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json() == {"output": str(out), "scans": 1, "counterfactuals": 1}
    assert (out / "imagesTr" / "sub-0001_cf1_0000.nii.gz").exists()


def test_a_folder_in_use_is_refused(cfmri, studies, models):
    outcome = cfmri("augment", studies, studies, "--device", "cpu")
    assert outcome.code == 2
    assert "holds something else already" in outcome.err
