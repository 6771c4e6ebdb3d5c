"""Worker processes: one that cannot work stops the batch, none outlives the engine; kills are in tests/robustness."""

import os
import time

import pytest
import small_archive
from small_archive import EDIT, batch_of, ledger_of, leftovers, results, workers_of

from cfmri_core.batch import local
from cfmri_core.batch.local import run_local
from cfmri_core.errors import ResourceError


def test_a_limit_on_file_sizes_stops_the_batch_like_a_full_disk_and_it_goes_on_without(
    archive, models, out, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(local, "serve", small_archive.serve_with_little_room)
        with pytest.raises(ResourceError, match="Cannot write"):
            batch_of(archive, out, models).run(run_local, 1)
    assert not leftovers(out)
    assert not results(out)
    assert ledger_of(out)[0]["todo"] == 4
    assert batch_of(archive, out, models).run(run_local, 1)["items"]["done"] == 4


def test_workers_that_die_before_their_first_item_stop_the_batch(archive, models, out, monkeypatch):
    monkeypatch.setattr(local, "serve", small_archive.serve_nothing)
    with pytest.raises(ResourceError, match="before their first item"):
        batch_of(archive, out, models).run(run_local, 1)


def test_a_worker_that_is_told_to_end_finishes_its_item(archive, models, out, monkeypatch):
    monkeypatch.setattr(local, "serve", small_archive.serve_and_be_told_to_end)
    assert batch_of(archive, out, models).run(run_local, 1)["items"]["done"] == 4


def test_no_worker_outlives_its_engine(archive, models, out):
    batch_of(archive, out, models).run(run_local, 2)
    deadline = time.monotonic() + 5
    while workers_of(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers_of(os.getpid())
    assert len(list((out / EDIT).iterdir())) == 4


def test_a_long_path_of_temporary_files_changes_only_how_workers_start(monkeypatch):
    monkeypatch.setattr(local.tempfile, "gettempdir", lambda: "/" + "x" * 90)
    assert local._context().get_start_method() == "spawn"
    monkeypatch.setattr(local.tempfile, "gettempdir", lambda: "/tmp")
    assert local._context().get_start_method() == "forkserver"
