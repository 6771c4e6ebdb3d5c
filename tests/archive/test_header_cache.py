import os

import museum
import pytest

from cfmri_core.archive import header_cache
from cfmri_core.archive.index import Reason, index_archive
from cfmri_core.errors import RequestError, ResourceError


def reasons(archive, **options):
    return [entry.reason for entry in index_archive(archive, workers=1, **options)]


def test_loops_pipes_devices_and_odd_names_do_not_stop_it(archive, write):
    museum.hostile_tree(archive)
    write("good", 1)
    entries = list(index_archive(archive, workers=1))
    assert [entry.reason for entry in entries] == [None] + [Reason.DAMAGED] * 3
    assert all(len(entry.key) == 16 for entry in entries)


def test_files_that_promise_nothing_are_passed_over(archive, write):
    write("s", 1)
    for name in ("notes.txt", "s/report.pdf", "s/.hidden.dcm"):
        (archive / name).write_bytes(b"%PDF")
    assert reasons(archive) == [None]


def test_second_run_reads_only_what_changed(archive, write, tmp_path):
    write("one", 1)
    kept = write("two", 2, 5)
    reports = []

    def run():
        reports.clear()
        entries = index_archive(archive, cache=tmp_path / "c.db", workers=1, progress=lambda *r: reports.append(r))
        return [(entry.key, entry.images) for entry in entries]

    first = run()
    assert reports[-1][:2] == (9, 9)
    assert "files/s" in reports[-1][2]
    assert run() == first
    assert reports == []
    kept[4].unlink()
    os.utime(kept[3], ns=(1, 1))
    assert [images for _, images in run()] == [4, 4]
    assert reports[-1][:2] == (1, 1)


def test_cache_is_private_and_holds_no_patient_data(archive, write, tmp_path):
    write("one", 1, SeriesDescription="SENTINEL DESCRIPTION", AcquisitionTime="101112.131415")
    assert reasons(archive, cache=tmp_path / "c.db") == [None]
    content = (tmp_path / "c.db").read_bytes()
    assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o600
    for value in ("SENTINEL", "19700101", "20200102", "101112"):
        assert value.encode() not in content


def test_cache_that_is_something_else_is_left_alone(archive, tmp_path):
    other = tmp_path / "other"
    other.write_text("a letter")
    with pytest.raises(RequestError, match="not a cache"):
        reasons(archive, cache=other)
    assert other.read_text() == "a letter"
    with pytest.raises(ResourceError, match="cannot be used"):
        reasons(archive, cache=tmp_path / "absent" / "c.db")
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(ResourceError):
        reasons(archive, cache=tmp_path / "link")


@pytest.mark.parametrize(
    ("reader", "error"),
    [
        ("cfmri_core.archive.header_cache.peek_plain", OSError(5, "Input/output error")),
        ("cfmri_core.dicom.peek.parse_header", OSError(5, "Input/output error")),
        ("cfmri_core.dicom.peek.parse_header", MemoryError()),
    ],
)
def test_what_could_not_be_read_once_is_read_again(archive, write, tmp_path, monkeypatch, reader, error):
    def fail(path):
        raise error

    write("s", 1)
    with monkeypatch.context() as patch:
        patch.setattr(header_cache, "peek_plain", lambda path: None)  # as for a file that is not plain
        patch.setattr(reader, fail)
        assert set(reasons(archive, cache=tmp_path / "c.db")) == {Reason.UNREADABLE}
    assert reasons(archive, cache=tmp_path / "c.db") == [None]


@pytest.fixture
def lock(monkeypatch):
    """Let a folder of that name be listed no more; by a stand-in, because tests may run as root."""

    def scandir_but(name, error):
        real = os.scandir

        def scandir(path):
            if path.name == name:
                raise error
            return real(path)

        monkeypatch.setattr(header_cache.os, "scandir", scandir)

    return scandir_but


def test_folder_that_cannot_be_listed_is_told_and_asked_again(archive, write, tmp_path, monkeypatch, lock):
    write("a", 1)
    for path in write("b", 1, 8)[:4]:  # there is the rest of the series
        path.unlink()
    cache = tmp_path / "c.db"
    lock("b", PermissionError(13, "Permission denied"))
    whole, stray = index_archive(archive, cache=cache, workers=1)
    assert (whole.images, whole.reason) == (4, None)
    assert stray.reason is Reason.UNREADABLE
    assert "(Permission denied): a series with images there may seem whole" in stray.refusal
    monkeypatch.undo()
    assert [entry.images for entry in index_archive(archive, cache=cache, workers=1)] == [8]


def test_folder_that_cannot_be_listed_counts_against_the_one_series_around_it(archive, write, lock):
    write("s", 1)
    write("s/more", 1, prefix="x")
    lock("more", OSError(5, "Input/output error"))
    assert reasons(archive) == [Reason.DAMAGED, Reason.UNREADABLE]


def test_folder_that_vanished_is_passed_over(archive, write, lock):
    write("s", 1)
    write("gone", 2)
    lock("gone", FileNotFoundError(2, "No such file or directory"))
    assert reasons(archive) == [None]


def test_file_without_permission_is_unreadable(archive, write, monkeypatch):
    """By a stand-in, because tests may run as root, who may read everything."""
    write("s", 1)
    monkeypatch.setattr(header_cache, "peek_plain", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert {(entry.reason, entry.refusal) for entry in index_archive(archive, workers=1)} == {
        (Reason.UNREADABLE, "cannot be read (denied)")
    }
