"""Running an evaluation: resume, sums, tests."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.suite import Comparison, PatientResult, run_suite

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
    assert result.aggregate["ours"]["score"].mean == pytest.approx(2.5 + 2)
    assert result.aggregate["ours"]["score"].patients == 6
    assert result.tests["score: ours - theirs"].median_difference == pytest.approx(2.0)
    assert [len(patient.pictures) for patient in result.patients] == [1, 1, 1, 0, 0, 0]


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
