"""`evaluate`, with untrained models: the protocol, not the quality."""

import json

import pytest


@pytest.fixture
def quick_edits(monkeypatch):
    """Two denoising steps instead of the methods' own number."""
    from cfmri_core.evaluation import edit_suite

    real = edit_suite.EditRequest

    def quick(**settings):
        return real(**settings, **({} if settings["method"] == "fast" else {"steps": 2}))

    monkeypatch.setattr(edit_suite, "EditRequest", quick)


def test_suite_edit_compares_methods_with_the_truth(cfmri, studies, models, tmp_path, quick_edits):
    result, report = tmp_path / "r.json", tmp_path / "r.html"
    outcome = cfmri("evaluate", studies, "--suite", "edit", "--json", result, "--report", report, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    written = json.loads(result.read_text())
    assert written["n_patients"] == 2
    assert written["aggregate"]["other"]["source"]["slope"]["mean"] == 0
    assert written["aggregate"]["other"]["second scan"]["slope"]["mean"] > 0.8
    assert {"source", "truth", "inversion", "affine to tissue means"} <= set(written["patients"][0]["cases"]["avanto"])
    assert written["settings"]["families"]["inversion"] == "learned from unpaired scans"
    assert "command" in written["provenance"]
    assert written["settings"]["models_sha256"]["inversion"]
    text = report.read_text()
    assert text.count("data:image/png") >= 8
    assert "Patient sub-0002" in text


def test_suite_edit_can_be_cut_down(cfmri, studies, models, tmp_path, quick_edits):
    result = tmp_path / "r.json"
    arguments = ("evaluate", studies, "--suite", "edit", "--json", result, "--device", "cpu", "--limit", 1)
    outcome = cfmri(*arguments, "--method", "inversion", "--case", "other", "--slices", 2)
    assert outcome.code == 0, outcome.err
    written = json.loads(result.read_text())
    assert "paper" not in written["settings"]["families"]
    assert written["settings"]["slices"] == 2
    assert set(written["aggregate"]) == {"other"}
    assert cfmri(*arguments, "--case", "decorrelated").code == 2
    assert "is not a method" in cfmri(*arguments, "--method", "nothing").err


def test_suites_iap_and_segmentation_measure_every_scan(cfmri, studies, models, tmp_path):
    for suite, arm, metric in (
        ("iap", "predictor", "manufacturer_model accuracy"),
        ("segmentation", "segmenter", "fat dice"),
    ):
        result = tmp_path / f"{suite}.json"
        outcome = cfmri("evaluate", studies, "--suite", suite, "--json", result, "--limit", 1, "--device", "cpu")
        assert outcome.code == 0, outcome.err
        cases = json.loads(result.read_text())["patients"][0]["cases"]
        assert set(cases) == {"scan", "avanto"}
        assert metric in cases["scan"][arm]


@pytest.mark.parametrize(("suite", "words"), [("structure", "not in this version"), ("nothing", "is not known")])
def test_other_suites_are_refused(cfmri, studies, tmp_path, suite, words):
    outcome = cfmri("evaluate", studies, "--suite", suite, "--json", tmp_path / "r.json")
    assert outcome.code == 2
    assert words in outcome.err


def test_studies_without_pairs_are_refused_for_suite_edit(cfmri, models, tmp_path, studies):
    alone = tmp_path / "studies" / "sub-0001"
    alone.mkdir(parents=True)
    (alone / "dicom").symlink_to(studies / "sub-0001" / "dicom")
    outcome = cfmri("evaluate", alone.parent, "--suite", "edit", "--json", tmp_path / "r.json", "--device", "cpu")
    assert outcome.code == 2
    assert "with --paired" in outcome.err


def test_the_evaluation_page_is_written(cfmri, tmp_path):
    (tmp_path / "trust.json").write_text(json.dumps({"suite": "trust", "n_patients": 1, "aggregate": {}}))
    assert cfmri("evaluation-page", tmp_path, tmp_path / "page.md").code == 0
    assert (tmp_path / "page.md").read_text().startswith("# Evaluation")
    assert "holds no result file" in cfmri("evaluation-page", tmp_path / "none", tmp_path / "page.md").err
