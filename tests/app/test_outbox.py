"""Uploads wait until the archive has them, whatever happens on either side."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from cfmri_server import outbox as module
from cfmri_server.outbox import SEGMENTATION, Outbox
from phantoms import SERIES_UID, affine_of, distinct_voxels, write_series

from app.archive_server import wait_until
from cfmri_core.errors import RemoteError


def write(folder: Path) -> None:
    write_series(folder, distinct_voxels(), affine_of(np.eye(3)))


class Stores:
    """An archive that answers with one error after another, and then takes everything."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[int] = []

    def __call__(self, files: Sequence[Path]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(len(files))


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Make outboxes on one folder and run them; quicker than hospitals need it."""
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.02)
    stop, threads = threading.Event(), []

    def run(store: Callable[[Sequence[Path]], object]) -> Outbox:
        outbox = Outbox(tmp_path / "outbox", store)
        outbox.clear()
        threads.append(threading.Thread(target=outbox.run, args=(stop,)))
        threads[-1].start()
        return outbox

    yield run
    stop.set()
    for thread in threads:
        thread.join()


def states(outbox: Outbox) -> list[str]:
    return [upload["state"] for upload in outbox.uploads()]


def test_an_upload_is_sent_and_noted(running, tmp_path):
    store = Stores()
    outbox = running(store)
    assert outbox.add(SEGMENTATION, "image-1", write) == SERIES_UID
    wait_until(lambda: states(outbox) == ["stored"])
    (upload,) = outbox.uploads()
    assert (upload["id"], upload["kind"], upload["image"], upload["objects"]) == (
        SERIES_UID,
        "segmentation",
        "image-1",
        4,
    )
    assert store.taken == [4]
    assert list((tmp_path / "outbox" / "waiting").iterdir()) == []


def test_the_same_content_waits_once(tmp_path):
    outbox = Outbox(tmp_path / "outbox", Stores())
    assert outbox.add(SEGMENTATION, "image-1", write) == outbox.add(SEGMENTATION, "image-1", write)
    assert states(outbox) == ["pending"]


def test_a_dead_archive_is_tried_until_it_lives(running):
    store = Stores(*(RemoteError("Nothing answers.", "Start it.", retryable=True) for _ in range(3)), ValueError())
    store.errors.pop()
    outbox = running(store)
    outbox.add(SEGMENTATION, "image-1", write)
    wait_until(lambda: states(outbox) == ["stored"])
    assert outbox.uploads()[0]["attempts"] == 4


@pytest.mark.parametrize("error", [RemoteError("The archive refuses.", "Ask its owner."), ValueError("SENTINEL")])
def test_a_refusal_is_told_and_tried_again_later(running, tmp_path, monkeypatch, error):
    outbox = running(Stores(error))
    outbox.add(SEGMENTATION, "image-1", write)
    wait_until(lambda: states(outbox) == ["failed"])
    assert "SENTINEL" not in json.dumps(outbox.uploads())
    assert outbox.uploads()[0]["error"]["message"]
    outbox.add(SEGMENTATION, "image-1", write)  # whoever asks again does not wait
    wait_until(lambda: states(outbox) == ["stored"])


def test_a_restart_finds_what_waits_and_clears_what_was_left(running, tmp_path):
    Outbox(tmp_path / "outbox", Stores()).add(SEGMENTATION, "image-1", write)  # killed before it was sent
    waiting = tmp_path / "outbox" / "waiting"
    for leftover in (".part-x", ".stored-y"):
        write(waiting / leftover / "dicom")
    store = Stores()
    outbox = running(store)
    wait_until(lambda: states(outbox) == ["stored"])
    assert store.taken == [4]
    assert list(waiting.iterdir()) == []


def test_killed_between_note_and_removal_it_is_stored_once_more_and_told_once(running, tmp_path):
    first = Outbox(tmp_path / "outbox", Stores())
    first.add(SEGMENTATION, "image-1", write)
    (entry,) = first.uploads()
    (tmp_path / "outbox" / "stored" / f"{SERIES_UID}.json").write_text(json.dumps({**entry, "stored": "2026"}))
    assert states(first) == ["pending"]
    outbox = running(Stores())
    wait_until(lambda: states(outbox) == ["stored"])


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    outbox = Outbox(tmp_path / "outbox", Stores())
    with pytest.raises(ZeroDivisionError):
        outbox.add(SEGMENTATION, "image-1", lambda folder: 1 / 0)
    assert list((tmp_path / "outbox" / "waiting").iterdir()) == []
