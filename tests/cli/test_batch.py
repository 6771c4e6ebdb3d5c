"""`batch`: what it says, its exit codes, and plans."""

import json
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from small_archive import EDITS, run_here, write_archive  # noqa: E402


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "archive", 2)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch, tmp_path):
    monkeypatch.setattr("cfmri_core.batch.local.run_local", run_here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def batch(cfmri, archive, models, tmp_path):
    (tmp_path / "edits.yaml").write_text(EDITS)

    def run(*options, out=tmp_path / "out"):
        return cfmri("batch", archive, out, "--edits", tmp_path / "edits.yaml", "--device", "cpu", *options)

    return run


def test_a_batch_ends_with_0_and_names_its_report(batch, tmp_path):
    outcome = batch()
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"Report: {tmp_path / 'out' / 'report.html'}\n"
    assert "2 done, 0 refused, 0 failed" in outcome.err
    assert "SYNTHETIC" in outcome.err
    assert "items a minute" in outcome.err


def test_json_lines_are_all_there_is(batch):
    outcome = batch("--json")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["event"] for line in lines][-2:] == ["progress", "summary"]
    assert lines[-2]["remaining_s"] == 0
    assert lines[-1]["items"]["done"] == 2
    assert not outcome.err


def test_some_failed_items_have_an_exit_code_of_their_own(batch, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("cfmri_core.batch.item.trusted_edit", fail)
        assert batch().code == 10
    assert batch().code == 10  # still failed
    assert batch("--retry-failed", "--resume").code == 0


def test_an_item_whose_series_is_gone_is_named_and_not_taken_for_done(batch, archive, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cfmri_core.batch.local.run_local", lambda job, work, workers: None)
        assert batch().code == 10
    (archive / "0000").rename(tmp_path / "away")
    outcome = batch()
    assert outcome.code == 10
    assert "1 done, 0 refused, 0 failed" in outcome.err
    assert "1 still to do, as the archive does not offer their series now: shorter-echo/sub-" in outcome.err
    (tmp_path / "away").rename(archive / "0000")
    assert batch().code == 0


def test_a_result_of_a_series_that_grew_since_is_told_and_made_again_on_demand(batch, archive, tmp_path):
    longer = write_archive(tmp_path / "longer", 1, (18, 16, 4))
    batch()
    (longer / "0000" / "IM0003.dcm").rename(archive / "0000" / "IM0003.dcm")
    made = tmp_path / "out" / "shorter-echo"
    grown = batch()
    assert grown.code == 10
    assert "1 made before their series changed: --retry-failed makes them again." in grown.err
    (named,) = json.loads((tmp_path / "out" / "report.json").read_text())["made_before_a_change"]
    assert len(list((made / f"sub-{named['series']}").rglob("*.dcm"))) == 3
    assert batch("--retry-failed").code == 0
    assert len(list((made / f"sub-{named['series']}").rglob("*.dcm"))) == 4
    assert batch().code == 0


def test_resume_goes_on_only(batch):
    outcome = batch("--resume")
    assert outcome.code == 2
    assert "holds no batch to go on with" in outcome.err
    batch()
    assert batch("--resume").code == 0


def test_a_dry_run_counts_and_writes_nothing_and_plans_once_there_are_timings(batch, tmp_path):
    outcome = batch("--dry-run")
    assert "shorter-echo  2" in outcome.out
    assert "Nothing was written" in outcome.out
    assert "Measured" not in outcome.out
    assert not (tmp_path / "out").exists()
    batch()
    planned = batch("--dry-run", "--series", 1_000_000).out
    assert "1,000,000 such series, 1,000,000 items" in planned
    assert "machine hours" in planned
    assert batch("--dry-run", "--json").out.startswith("{")
    assert batch("--dry-run", "--plan", tmp_path / "plan.md").code == 0
    assert (tmp_path / "plan.md").is_file()


def test_a_plan_has_as_many_items_a_series_as_the_edits_select(batch, tmp_path):
    two = EDITS + '  - {name: of-one-maker, where: {manufacturer: "GE*"}, set: {echo_time_ms: 2}}\n'
    (tmp_path / "edits.yaml").write_text(two)
    batch()
    assert "1,000 such series, 1,500 items" in batch("--dry-run", "--series", 1000).out
    assert "2 such series, 3 items" in batch("--dry-run").out


def test_an_edit_that_selects_nothing_is_named(batch, tmp_path):
    (tmp_path / "edits.yaml").write_text(
        EDITS + "  - {name: misspelt, where: {manufacturer: Siemns}, set: {echo_time_ms: 2}}\n"
    )
    planned = batch("--dry-run").out
    assert "misspelt      0" in planned
    assert "shorter-echo  2" in planned
    outcome = batch()
    assert outcome.code == 0
    assert "warning: edit 'misspelt' selected no series" in outcome.err
    assert "shorter-echo" not in outcome.err


def test_there_is_no_plan_without_timings(batch, tmp_path):
    outcome = batch("--dry-run", "--plan", tmp_path / "plan.md")
    assert outcome.code == 2
    assert "no timings to plan with" in outcome.err


def test_a_bad_edits_file_is_one_line_with_its_place(batch, tmp_path):
    (tmp_path / "edits.yaml").write_text("edits:\n  - name: a\n    sett: {}\n")
    outcome = batch()
    assert outcome.code == 2
    assert f"{tmp_path / 'edits.yaml'}:3: sett: is not a key here." in outcome.err


def test_results_into_the_archive_and_two_engines_are_refused(batch, archive, tmp_path):
    assert batch(out=archive / "out").code == 2
    assert batch("--ray", "local", "--slurm", tmp_path / "conf.yaml").code == 2
