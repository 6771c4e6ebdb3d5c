"""The blinded reading; runs without Slicer."""

import csv
import io

import pytest
from CounterfactualMRILib.reader_study import GRADES, PLACES, ReaderStudy, Reading, planned


def test_every_case_is_read_once_on_a_random_side_and_controls_are_among_them():
    pairs = planned(40, seed=3)
    real = [pair for pair in pairs if not pair.isControl]
    assert sorted(pair.case for pair in real) == list(range(1, 41))
    assert 8 < sum(pair.left == "original" for pair in real) < 32
    assert len(pairs) - len(real) == 8
    assert [pair.case for pair in pairs] != sorted(pair.case for pair in pairs)
    assert [pair.number for pair in pairs] == list(range(1, 49))


def test_the_same_seed_gives_the_same_study():
    assert planned(10, 5) == planned(10, 5)
    assert planned(10, 5) != planned(10, 6)


def test_a_study_needs_a_case():
    with pytest.raises(ValueError, match="Generate at least one"):
        planned(0, 1)


@pytest.mark.parametrize(
    ("grade", "places"), [("awful", ()), ("no", PLACES[:1]), ("minimal", ()), ("severe", ("in the head",))]
)
def test_a_reading_that_contradicts_itself_is_refused(grade, places):
    with pytest.raises(ValueError, match=r"\."):
        Reading(grade, places)


def test_readings_go_into_a_table_by_grade_and_place():
    study = ReaderStudy(2, "reader A", seed=1)
    assert len(study.pairs) == 3
    readings = [Reading("no"), Reading("minimal", PLACES[1:], "edge, of the arm"), Reading("no")]
    for reading in readings:
        study.record(reading)
    assert study.current is None
    with pytest.raises(ValueError, match="All pairs"):
        study.record(readings[0])
    rows = list(csv.DictReader(io.StringIO(study.csv())))
    assert [row["anatomical_change"] for row in rows] == ["no", "minimal", "no"]
    assert rows[1]["outside_breast"] == "True"
    assert rows[1]["comment"] == "edge, of the arm"
    assert {row["left"] for row in rows} <= {"original", "counterfactual"}
    table = study.table()
    assert all(grade in table for grade in GRADES)
    assert "NA" in table


def test_the_last_reading_can_be_taken_back():
    study = ReaderStudy(3, "A")
    first = study.current
    study.takeBack()
    study.record(Reading("no"))
    study.takeBack()
    assert study.current is first
    assert study.csv().count("\n") == 1
