"""Time from the ledger: overlapping turns count once, runs are counted apart, plans scale with machines."""

import pytest

from cfmri_core.batch.ledger import Ledger, State
from cfmri_core.batch.timeline import plan_rows, timeline, write_plan


def ledger_with(out, turns_by_run, failed=0):
    ledger = Ledger(out, {})
    number = 0
    for turns in turns_by_run:
        run = ledger.begin_run(2)
        for began, took in turns:
            ledger.plan([("e", str(number), None)], [])
            outcome = {
                "device": "cuda:0", "device_turns": [[began, took]], "bytes_written": 2_000_000,
                "seconds": {"read": 1.0, "device": took, "write": 2.0},
            }  # fmt: skip
            state = State.FAILED if number < failed else State.DONE
            ledger.finish("e", str(number), run, state, outcome)
            number += 1
        ledger.end_run(run)
    return ledger


def test_overlapping_turns_count_once_and_gaps_count_as_idle(out):
    with ledger_with(out, [[(0, 4), (2, 4), (8, 2)]]) as ledger:
        measured = timeline(ledger.report)
    assert measured.device_share == {"cuda:0": 0.8}
    assert measured.seconds == {"read": 1.0, "device": pytest.approx(10 / 3), "write": 2.0}


def test_the_night_between_two_runs_is_not_idle_time(out):
    with ledger_with(out, [[(0, 10)], [(50_000, 10)]]) as ledger:
        assert timeline(ledger.report).device_share == {"cuda:0": 1.0}


def test_an_empty_ledger_says_nothing(out):
    with Ledger(out, {}) as ledger:
        measured = timeline(ledger.report)
    assert (measured.items, measured.items_per_s, measured.device_share) == (0, 0.0, {})


def test_a_plan_scales_with_machines_and_keeps_the_rate_of_failures(out):
    with ledger_with(out, [[(0, 1), (1, 1), (2, 1), (3, 1)]], failed=1) as ledger:
        measured = timeline(ledger.report)
    header, one, four = plan_rows(measured, 1_000_000, (1, 4))
    assert header[0] == "machines"
    assert measured.elapsed_s == 7.0
    hours = [float(row[1].replace(",", "")) for row in (one, four)]
    assert hours[0] == pytest.approx(4 * hours[1], abs=4)
    assert one[3] == "2.00 TB"
    assert one[4] == "250,000"


def test_a_plan_in_markdown_says_what_it_was_measured_on(out, tmp_path):
    with ledger_with(out, [[(0, 1), (1, 1)]]) as ledger:
        write_plan(tmp_path / "plan.md", timeline(ledger.report), 1_000_000, 3_000_000)
    text = (tmp_path / "plan.md").read_text()
    assert text.startswith("# A plan for 1,000,000 series: 3,000,000 items")
    assert "Measured on 2 items with 2 workers" in text
    assert "up to 77.64% cannot be ruled out" in text  # none of 2: 1 - 0.05 ** (1 / 2)
    assert "- machine: " in text
