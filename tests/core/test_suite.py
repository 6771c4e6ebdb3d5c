"""Running an evaluation: resume, sums, tests."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.suite import ALL_CASES, Comparison, PatientResult, run_suite

STUDIES = [Study(f"sub-{number}", Path("none")) for number in range(6)]


@dataclass
class CountingSuite:
    name: str = "count"
    comparisons: tuple = (Comparison("score", "ours", "theirs"),)
    settings: dict = field(default_factory=lambda: {"seed": 0})
    evaluated: list = field(default_factory=list)
    break_at: str = ""

    def evaluate(self, study, with_pictures):
        if study.subject_id == self.break_at:
            raise KeyboardInterrupt
        self.evaluated.append(study.subject_id)
        number = float(study.subject_id[-1])
        cases = {
            "a": {"ours": {"score": number + 1}, "theirs": {"score": number}},
            "b": {"ours": {"score": number + 3}},
        }
        return PatientResult(study.subject_id, cases, [("caption", "data:")] if with_pictures else [])


def test_cases_are_averaged_within_a_patient_before_patients_are(tmp_path):
    result = run_suite(CountingSuite(), STUDIES, tmp_path / "out.partial")
    found = result.aggregate[ALL_CASES]["ours"]["score"]
    assert found.mean == pytest.approx(2.5 + 2)
    assert found.patients == 6
    assert result.tests["score: ours - theirs"].median_difference == pytest.approx(2.0)
    assert [len(patient.pictures) for patient in result.patients] == [1, 1, 1, 0, 0, 0]


@dataclass
class KindSuite(CountingSuite):
    comparisons: tuple = (Comparison("score", "ours", "theirs", "easy"), Comparison("score", "ours", "theirs"))

    def evaluate(self, study, with_pictures):
        plain = super().evaluate(study, with_pictures)
        return PatientResult(
            plain.patient, plain.cases, plain.pictures, {"a": "easy", "b": "hard"}, -float(study.subject_id[-1])
        )


def test_kinds_of_cases_are_summed_up_and_tested_apart(tmp_path):
    result = run_suite(KindSuite(), STUDIES, tmp_path / "out.partial")
    assert result.aggregate["easy"]["ours"]["score"].mean == pytest.approx(3.5)
    assert result.aggregate["hard"]["ours"]["score"].mean == pytest.approx(5.5)
    assert "theirs" not in result.aggregate["hard"]
    assert set(result.tests) == {"score: ours - theirs (easy)"}
    assert json.loads(result.to_json({}))["patients"][0]["kinds"] == {"a": "easy", "b": "hard"}


def test_the_worst_patients_are_pictured_after_an_interruption_too(tmp_path):
    partial = tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        run_suite(KindSuite(break_at="sub-3"), STUDIES, partial)
    result = run_suite(KindSuite(), STUDIES, partial, pictures=2)
    assert [len(patient.pictures) for patient in result.patients] == [0, 0, 0, 0, 1, 1]


def test_an_interrupted_run_goes_on_and_gives_the_same(tmp_path):
    partial = tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        run_suite(CountingSuite(break_at="sub-3"), STUDIES, partial)
    second = CountingSuite()
    resumed = run_suite(second, STUDIES, partial)
    assert second.evaluated == ["sub-3", "sub-4", "sub-5"]
    whole = run_suite(CountingSuite(), STUDIES, tmp_path / "whole.partial")
    assert resumed.to_json({}) == whole.to_json({})
    assert not partial.exists()


def test_a_line_cut_off_by_a_crash_is_done_again(tmp_path):
    partial = tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        run_suite(CountingSuite(break_at="sub-2"), STUDIES, partial)
    partial.write_text(partial.read_text()[:-20])
    second = CountingSuite()
    assert len(run_suite(second, STUDIES, partial).patients) == 6
    assert second.evaluated[0] == "sub-1"


def test_a_run_with_other_settings_is_not_mixed_in(tmp_path):
    partial = tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        run_suite(CountingSuite(break_at="sub-2"), STUDIES, partial)
    with pytest.raises(RequestError, match="other settings"):
        run_suite(CountingSuite(settings={"seed": 1}), STUDIES, partial)


def test_studies_without_what_is_needed_are_left_out_and_none_is_refused(tmp_path):
    class Choosy(CountingSuite):
        def evaluate(self, study, with_pictures):
            return None if study.subject_id != "sub-1" else super().evaluate(study, with_pictures)

    assert len(run_suite(Choosy(), STUDIES, tmp_path / "a").patients) == 1
    with pytest.raises(RequestError, match="No study has"):
        run_suite(Choosy(), STUDIES[2:], tmp_path / "b")


def test_the_result_file_holds_every_patient_and_no_pictures(tmp_path):
    result = run_suite(CountingSuite(), STUDIES, tmp_path / "out.partial")
    written = json.loads(result.to_json({"command": "cfmri evaluate"}))
    assert written["n_patients"] == len(written["patients"]) == 6
    assert written["provenance"] == {"command": "cfmri evaluate"}
    assert "pictures" not in written["patients"][0]
