import os
import signal
import subprocess
import sys
from pathlib import Path

import museum
import numpy as np
import pytest
from phantoms import PATIENT, affine_of, distinct_voxels, write_enhanced

from cfmri_core.archive import index
from cfmri_core.archive.index import Reason, index_archive, read_entry
from cfmri_core.errors import DicomReadError, GeometryError


def reasons(archive, **options):
    return [entry.reason for entry in index_archive(archive, workers=1, **options)]


def only(archive):
    (entry,) = index_archive(archive, workers=1)
    return entry


def test_series_are_gathered_across_folders_and_told_apart_within_one(archive, write):
    first = write("one", 1)
    write("one", 2, prefix="other")
    first[3].rename(archive / "stray.dcm")
    entries = list(index_archive(archive, workers=1))
    assert [entry.series_instance_uid for entry in entries] == ["1.2.9.1", "1.2.9.2"]
    assert entries[0].files == (*(Path("one") / f"{k}.dcm" for k in range(3)), Path("stray.dcm"))
    assert [(entry.images, entry.shape, entry.refusal) for entry in entries] == [(4, (7, 5, 4), None)] * 2
    assert entries[0].spacing_mm == pytest.approx((0.9, 1.3, 2.5))
    assert entries[0].acquisition.echo_time_ms == 2.81
    assert len({entry.key for entry in entries}) == 2
    assert all(len(entry.key) == 16 and entry.series_instance_uid not in entry.key for entry in entries)


def test_entry_is_read_as_the_series_is(archive, write):
    write("one", 1)
    write("one", 2, prefix="other")
    entry = next(index_archive(archive, workers=1))
    series = read_entry(archive, entry)
    assert np.array_equal(series.volume.voxels, distinct_voxels((7, 5, 4)))
    assert series.volume.shape == entry.shape
    (archive / entry.files[2]).write_bytes(b"gone bad")
    with pytest.raises(DicomReadError) as caught:
        read_entry(archive, entry)
    assert str(archive) not in str(caught.value)
    assert entry.key in str(caught.value)


def test_enhanced_image_is_an_entry_of_one_file(archive):
    write_enhanced(archive / "e.dcm", distinct_voxels(), affine_of(np.eye(3)))
    entry = only(archive)
    assert (len(entry.files), entry.images, entry.shape, entry.refusal) == (1, 4, (7, 5, 4), None)
    assert entry.acquisition.echo_time_ms == 2.81
    assert read_entry(archive, entry).volume.shape == (7, 5, 4)


def test_museum_of_bad_files_is_refused_one_by_one(archive):
    """Each is an entry of its own with a reason in one line; nothing escapes, nothing is taken for a volume."""
    for name, content in museum.broken(museum.whole(archive)).items():
        (archive / f"{name}.dcm").write_bytes(content)
    (archive / "whole").unlink()
    entries = list(index_archive(archive, workers=1))
    assert all(entry.reason in (Reason.DAMAGED, Reason.UNSUPPORTED) for entry in entries)
    assert sum(len(entry.files) for entry in entries) == len(list(archive.iterdir()))
    for entry in entries:
        assert "\n" not in entry.refusal
        assert str(archive) not in entry.refusal
        assert not any(value in entry.refusal for value in PATIENT.values() if len(value) > 1)


def test_root_must_be_a_folder(tmp_path):
    with pytest.raises(DicomReadError, match="no such folder"):
        reasons(tmp_path / "absent")


def test_processes_give_what_one_does(archive, write, monkeypatch):
    for number in range(1, 6):
        write(f"s{number}", number)
    alone = list(index_archive(archive, workers=1))
    monkeypatch.setattr(index, "FEW_FILES", 0)
    monkeypatch.setattr(index, "CHUNK", 4)
    assert list(index_archive(archive, workers=2)) == alone


def test_interrupted_run_goes_on_where_it_was(archive, write, tmp_path):
    for number in range(1, 100):
        write(f"s{number}", number)
    program = (
        "from cfmri_core.archive import index; import sys, time; from pathlib import Path\n"
        "index.CHUNK = 4; index.FEW_FILES = 0\n"
        "def slow(*report): print(*report, flush=True); time.sleep(0.02)\n"
        "if __name__ == '__main__':\n"
        "    list(index.index_archive(Path(sys.argv[1]), cache=Path(sys.argv[2]), workers=2, progress=slow))\n"
    )
    script, cache = tmp_path / "run.py", tmp_path / "c.db"
    script.write_text(program)
    with subprocess.Popen(
        [sys.executable, script, archive, cache], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) != 0
    reports = []
    entries = list(index_archive(archive, cache=cache, workers=1, progress=lambda *report: reports.append(report)))
    assert [entry.reason for entry in entries] == [None] * 99
    assert 0 < reports[-1][0] < 396


def test_changed_geometry_is_seen_when_the_entry_is_read(archive, write):
    entry_files = write("one", 1, 5)
    (entry,) = index_archive(archive, workers=1)
    entry_files[2].write_bytes(entry_files[1].read_bytes())
    with pytest.raises((DicomReadError, GeometryError)):
        read_entry(archive, entry)
