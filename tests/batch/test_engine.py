"""The engine: plan, run, resume, refuse; items are made in this process."""

import dataclasses
import json
import os
import signal

import pytest
from small_archive import EDIT, EDITS, batch_of, ledger_of, leftovers, results, run_here, write_archive

from cfmri_core.batch.engine import index_cache, require_apart
from cfmri_core.batch.item import Outcome
from cfmri_core.batch.ledger import State
from cfmri_core.errors import Cancelled, CheckpointError, RequestError, ResourceError


def quick(job, work, workers):
    """Make nothing, at once."""
    while (task := work.take()) is not None:
        work.finish(task, Outcome(state=State.DONE))


def test_a_batch_makes_every_item_and_says_so(archive, models, out):
    seen = []
    summary = batch_of(archive, out, models).run(run_here, 1, standing=seen.append)
    assert summary["items"] == {"todo": 0, "running": 0, "done": 4, "refused": 0, "failed": 0}
    assert len(results(out)) == 4
    assert [standing.ended for standing in seen] == [1, 2, 3, 4]
    assert seen[-1].remaining_s == 0
    assert seen[0].items_per_s > 0


def test_the_same_command_again_makes_nothing_again(archive, models, out):
    batch_of(archive, out, models).run(quick, 1)
    taken = []

    def counting(job, work, workers):
        taken.append(work.take())

    batch_of(archive, out, models).run(counting, 1)
    assert taken == [None]


def test_selectors_choose_the_series_and_the_rest_is_not_made(archive, models, out):
    edits = EDITS.replace("  - name", '  - where: {manufacturer: "GE*"}\n    name')
    assert batch_of(archive, out, models, edits).run(quick, 1)["items"]["done"] == 2


def test_other_edits_into_the_same_output_are_refused(archive, models, out):
    batch_of(archive, out, models).run(quick, 1)
    with pytest.raises(RequestError, match=r"begun with other edits\. Choose another output"):
        batch_of(archive, out, models, EDITS.replace("1.4", "1.5")).run(quick, 1)


def test_a_series_that_arrives_later_is_made_later(models, out, tmp_path):
    root = write_archive(tmp_path / "archive", 1)
    batch_of(root, out, models).run(quick, 1)
    write_archive(root, 2)
    assert batch_of(root, out, models).run(quick, 1)["items"]["done"] == 2


def test_an_item_that_ends_two_workers_is_failed_and_the_others_are_made(archive, models, out):
    def poisoned(job, work, workers):
        first = task = work.take()
        while task is not None:
            if task.entry.key == first.entry.key:
                work.give_back(task, crashed=True)
            else:
                work.finish(task, Outcome(state=State.DONE))
            task = work.take()

    summary = batch_of(archive, out, models).run(poisoned, 1)
    assert (summary["items"]["done"], summary["items"]["failed"]) == (3, 1)
    (said,) = json.loads((out / "report.json").read_text())["not_made"]
    assert said["reason"] == "Its worker ended 2 times while it had this item in hand."
    again = batch_of(archive, out, models).run(quick, 1, retry_failed=True)
    assert again["items"]["done"] == 4


def test_an_item_that_ended_a_worker_comes_last_also_in_the_next_run(archive, models, out):
    order = []

    def crashed_once(job, work, workers):
        order.append((first := work.take()).entry.key)
        work.give_back(first, crashed=True)

    def listing(job, work, workers):
        while (task := work.take()) is not None:
            order.append(task.entry.key)
            work.finish(task, Outcome(state=State.DONE))

    batch_of(archive, out, models).run(crashed_once, 1)
    batch_of(archive, out, models).run(listing, 1)
    assert len(order) == 5
    assert order[0] == order[-1]


def test_a_disk_that_is_full_stops_early_and_the_same_command_goes_on(archive, models, out):
    def full(job, work, workers):
        work.finish(work.take(), Outcome(state=State.DONE))
        work.give_back(work.take(), crashed=False)
        raise ResourceError("Cannot write: No space left on device.")

    with pytest.raises(ResourceError):
        batch_of(archive, out, models).run(full, 1)
    assert ledger_of(out)[0]["done"] == 1
    assert batch_of(archive, out, models).run(quick, 1)["items"]["done"] == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_begun_items_finish_and_the_rest_wait(archive, models, out, number):
    def interrupted(job, work, workers):
        task = work.take()
        os.kill(os.getpid(), number)
        work.finish(task, Outcome(state=State.DONE))
        assert work.take() is None

    with pytest.raises(Cancelled, match="The same command goes on"):
        batch_of(archive, out, models).run(interrupted, 1)
    assert ledger_of(out)[0] == {"todo": 3, "running": 0, "done": 1, "refused": 0, "failed": 0}
    assert (out / "report.html").is_file()


def test_a_worker_that_ends_while_the_batch_is_stopped_is_not_held_against_its_item(models, out, tmp_path):
    archive = write_archive(tmp_path / "archive", 1)

    def stopped(job, work, workers):
        task = work.take()
        os.kill(os.getpid(), signal.SIGTERM)
        work.give_back(task, crashed=True)

    for _ in range(2):
        with pytest.raises(Cancelled):
            batch_of(archive, out, models).run(stopped, 1)
    assert batch_of(archive, out, models).run(quick, 1)["items"]["done"] == 1


def test_what_killed_workers_left_behind_is_swept(archive, models, out):
    batch_of(archive, out, models).run(quick, 1)
    (out / EDIT / ".part-abc").mkdir(parents=True)
    (out / EDIT / ".part-abc" / "0001.dcm").write_bytes(b"half")
    batch_of(archive, out, models).run(quick, 1)
    assert not leftovers(out)


def test_a_missing_editor_is_found_before_anything_is_written(archive, out, tmp_path):
    with pytest.raises(CheckpointError):
        batch_of(archive, out, tmp_path).run(quick, 1)
    assert not out.exists()


def test_synthetic_series_are_edited_only_on_demand(models, out, tmp_path):
    root = write_archive(tmp_path / "archive", 1)
    for file in root.rglob("*.dcm"):
        import pydicom

        image = pydicom.dcmread(file)
        image.add_new(0x0008001C, "CS", "YES")
        image.save_as(file)
    left_out = batch_of(root, out, models).run(quick, 1)
    assert (left_out["items"]["done"], left_out["left_out"]) == (0, {"synthetic": 1})
    asked_for = out.with_name("other")
    edits = EDITS.replace("check: false", "check: false, synthetic: true")
    summary = batch_of(root, asked_for, models, edits).run(run_here, 1)
    assert (summary["items"]["done"], summary["left_out"]) == (1, {})


def test_results_never_go_into_the_archive(tmp_path):
    with pytest.raises(RequestError, match="inside the archive"):
        require_apart(tmp_path, tmp_path / "deep" / "out")
    require_apart(tmp_path / "archive", tmp_path / "archive-results")


def test_the_index_is_kept_in_a_private_folder_for_each_batch(tmp_path):
    folder = tmp_path / "cache"
    one, other = (index_cache(tmp_path / "a", tmp_path / name, folder) for name in "bc")
    assert one.parent == folder
    assert one != other
    assert folder.stat().st_mode & 0o077 == 0
    assert str(tmp_path) not in one.name


def test_a_nifti_output_is_described_as_a_bids_derivative(archive, models, out):
    edits = EDITS.replace("check: false", "check: false, outputs: [nifti]")
    batch_of(archive, out, models, edits).run(quick, 1)
    description = json.loads((out / EDIT / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "cfmri"


def test_tasks_carry_series_that_can_be_read(archive, models, out):
    tasks = []

    def listing(job, work, workers):
        while (task := work.take()) is not None:
            tasks.append(task)
            work.finish(task, Outcome(state=State.DONE))

    batch_of(archive, out, models).run(listing, 1)
    assert all(dataclasses.replace(task.entry).refusal is None for task in tasks)
    assert sum(task.with_pictures for task in tasks) == 2
