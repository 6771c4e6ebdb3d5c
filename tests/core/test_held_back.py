"""Who is held back, and that it stays so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfmri_core.data.catalogue import Study
from cfmri_core.data.held_back import hold_back
from cfmri_core.errors import RequestError


def studies(count, first=0):
    return [Study(f"sub-{number:03d}", Path()) for number in range(first, first + count)]


def names(part):
    return {study.patient for study in part}


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (5, 1), (10, 2), (100, 20)])
def test_a_fifth_is_held_back_and_at_least_one(tmp_path, count, held):
    training, validation = hold_back(studies(count), tmp_path / "held_back.json")
    assert len(validation) == held
    assert len(training) == count - held


def test_the_draw_is_the_same_every_time_and_everywhere(tmp_path):
    first, again = hold_back(studies(20), tmp_path / "a"), hold_back(studies(20)[::-1], tmp_path / "b")
    assert names(first[1]) == names(again[1])
    assert hold_back(studies(20), tmp_path / "a") == first


def test_it_stays_while_patients_are_added_one_by_one(tmp_path):
    held, trained = set(), set()
    for count in range(1, 60):
        training, validation = hold_back(studies(count), tmp_path / "held_back.json")
        held, trained = held | names(validation), trained | names(training)
        assert not held & trained
    assert 11 <= len(held) <= 13


def test_nobody_is_held_back_at_the_expense_of_the_training(tmp_path):
    assert hold_back(studies(2), tmp_path / "held_back.json", least_training=2)[1] == []
    assert names(hold_back(studies(3), tmp_path / "held_back.json", least_training=2)[1]) == {"sub-002"}


def test_a_patient_with_two_scans_is_on_one_side(tmp_path):
    scans = [Study(f"{study.subject_id}_{k}", Path(), patient_id=study.patient) for study in studies(10) for k in "ab"]
    training, validation = hold_back(scans, tmp_path / "held_back.json")
    assert len(validation) == 4
    assert not names(training) & names(validation)


def test_the_file_names_nobody(tmp_path):
    hold_back([Study("Doe^John", Path()), Study("Roe^Jane", Path())], tmp_path / "held_back.json")
    assert "Doe" not in (tmp_path / "held_back.json").read_text()


def test_a_damaged_file_is_never_drawn_anew(tmp_path):
    (tmp_path / "held_back.json").write_text("{")
    with pytest.raises(RequestError, match="held back"):
        hold_back(studies(3), tmp_path / "held_back.json")
