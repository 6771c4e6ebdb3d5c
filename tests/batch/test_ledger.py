"""The ledger: every item once, one engine at a time, nobody else's folder."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cfmri_core.batch.ledger import FILE_NAME, Ledger, LedgerReport, State
from cfmri_core.errors import RequestError, ResourceError

SIGNATURE = {"edits": "a", "models": "b"}


def planned(out):
    ledger = Ledger(out, SIGNATURE)
    ledger.plan([("e", "1", "x"), ("e", "2", None)], [("3", "damaged", "Why.")])
    return ledger


def test_an_item_is_handed_out_once(out):
    with planned(out) as ledger:
        assert ledger.start("e", "1")
        assert not ledger.start("e", "1")
        assert not ledger.start("e", "absent")


def test_a_plan_made_again_changes_nothing_that_is_done(out):
    with planned(out) as ledger:
        run = ledger.begin_run(1)
        ledger.start("e", "1")
        ledger.finish("e", "1", run, State.DONE, {})
        ledger.plan([("e", "1", None), ("e", "4", None)], [])
        counts = ledger.report.counts()
    assert (counts[State.DONE], counts[State.TODO]) == (1, 2)


def test_a_series_that_is_left_out_no_longer_is_not_listed_any_more(out):
    with planned(out) as ledger:
        ledger.plan([("e", "3", None)], [("5", "irregular", "Why.")])
        assert ledger.report.left_out() == [("5", "irregular", "Why.")]


def test_an_item_that_was_made_from_other_content_is_told_and_done_again_on_demand(out):
    with planned(out) as ledger:
        run = ledger.begin_run(1)
        for series, content in (("1", "x"), ("2", None)):
            ledger.start("e", series)
            ledger.finish("e", series, run, State.DONE, {"content": content})
        assert ledger.plan([("e", "1", "x"), ("e", "2", "y")], []) == []
        assert ledger.plan([("e", "1", None)], []) == []
        changed = ledger.plan([("e", "1", "other")], [])
        assert changed == [("e", "1")]
        ledger.retry_failed(changed)
        assert (ledger.start("e", "1"), ledger.start("e", "2")) == (True, False)


def test_a_ledger_from_before_content_was_kept_goes_on(out):
    with planned(out) as ledger:
        ledger.start("e", "1")
        ledger.finish("e", "1", ledger.begin_run(1), State.DONE, {})
        ledger._database.execute("ALTER TABLE item DROP COLUMN content")
    with Ledger(out, SIGNATURE) as ledger:
        assert ledger.plan([("e", "1", "x"), ("e", "2", "x")], []) == []
        ledger.finish("e", "2", ledger.begin_run(1), State.DONE, {"content": "x"})
        assert ledger.plan([("e", "1", "y"), ("e", "2", "y")], []) == [("e", "2")]


def test_what_a_killed_run_had_in_hand_is_done_again(out):
    with planned(out) as ledger:
        ledger.start("e", "1")
    with planned(out) as ledger:
        ledger.begin_run(1)
        assert ledger.start("e", "1")
        assert ledger.report.redone() == 1


def test_failed_items_are_done_again_on_demand_only(out):
    with planned(out) as ledger:
        ledger.start("e", "1")
        ledger.finish("e", "1", ledger.begin_run(1), State.FAILED, {})
        assert not ledger.start("e", "1")
        ledger.retry_failed()
        assert ledger.start("e", "1")


def test_two_engines_never_share_a_ledger(out):
    with planned(out) as ledger:
        ledger.begin_run(1)
        code = f"from cfmri_core.batch.ledger import Ledger; from pathlib import Path; Ledger(Path({str(out)!r}), {{}})"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Another run is at work" in other.stderr


def test_other_edits_or_models_are_refused_with_the_way_out(out):
    planned(out).__exit__(None, None, None)
    with pytest.raises(RequestError, match=r"begun with other models\. Choose another output"):
        Ledger(out, {**SIGNATURE, "models": "c"})


def test_a_folder_that_holds_something_else_is_refused(out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="holds something else"):
        Ledger(out, SIGNATURE)
    (out / FILE_NAME).write_text("no database at all")
    with pytest.raises(RequestError, match="damaged or no ledger"):
        Ledger(out, SIGNATURE)


def test_a_target_that_cannot_be_written_is_a_lack_of_resources():
    with pytest.raises(ResourceError, match="Cannot write"):
        Ledger(Path("/proc/batch"), SIGNATURE)


def test_a_full_disk_is_a_lack_of_resources(out):
    with planned(out) as ledger:
        ledger._database.execute("PRAGMA max_page_count = 10")
        with pytest.raises(ResourceError, match="full"):
            ledger.plan([("e", str(number), None) for number in range(20000)], [])
        assert sum(ledger.report.counts().values()) == 2


def test_a_report_reads_without_the_right_to_write(out):
    with planned(out) as ledger:
        ledger.begin_run(3)
    with LedgerReport.of_folder(out) as report:
        assert report.left_out() == [("3", "damaged", "Why.")]
        assert report.runs()[0][3] == 3
    with LedgerReport.of_folder(out / "absent") as report:
        assert report is None
    with sqlite3.connect(out / FILE_NAME) as database:
        assert database.execute("SELECT count(*) FROM item").fetchone() == (2,)
