import os
import signal
import subprocess
import sys
from pathlib import Path

import museum
import numpy as np
import pytest
from phantoms import PATIENT, affine_of, distinct_voxels, write_enhanced

from cfmri_core.archive import catalogue, index
from cfmri_core.archive.index import Reason, index_archive, read_entry
from cfmri_core.errors import DicomReadError, GeometryError, RequestError, ResourceError


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


@pytest.mark.parametrize(
    ("attributes", "reason", "line"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, Reason.NOT_MR, "CT Image Storage"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER, "localizer"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, Reason.DERIVED, "derived"),
        ({"ImageType": ["ORIGINAL", "SECONDARY", "SUB"]}, Reason.DERIVED, "secondary"),
        ({"count": 2}, Reason.TOO_FEW_SLICES, "2 images"),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED, "monochrome"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, Reason.UNSUPPORTED, "mosaic"),
        ({"PixelData": None}, Reason.DAMAGED, "no pixel data"),
        ({"ImagePositionPatient": None}, Reason.IRREGULAR, "ImagePositionPatient is absent"),
        ({"ImagePositionPatient": ["0", "0", "0"]}, Reason.SEVERAL_VOLUMES, "4 images at 1 positions"),
        ({"SOPInstanceUID": "1.2.3"}, Reason.DAMAGED, "one SOPInstanceUID"),
    ],
)
def test_series_that_cannot_be_used_says_why(archive, write, attributes, reason, line):
    write("s", 1, **attributes)
    entry = only(archive)
    assert entry.reason is reason
    assert line in entry.refusal
    with pytest.raises(DicomReadError, match=entry.key):
        read_entry(archive, entry)


def test_own_synthetic_series_is_left_out(archive, write):
    for path in write("s", 1):
        dataset = museum.pydicom.dcmread(path)
        dataset.add_new(0x0008001C, "CS", "YES")
        dataset.save_as(path)
    assert only(archive).is_synthetic
    assert only(archive).reason is Reason.SYNTHETIC


def test_missing_slice_and_mixed_contrasts_are_irregular(archive, write):
    write("gap", 1, 6)[3].unlink()
    write("mixed", 2, 3)
    write("mixed", 2, 6, prefix="echo", EchoTime="9")
    (archive / "mixed" / "echo0.dcm").unlink()
    assert reasons(archive) == [Reason.IRREGULAR, Reason.SEVERAL_VOLUMES]


def test_dynamic_series_gives_an_entry_per_time_point(archive, write):
    for point in (1, 2, 3):
        write("dynamic", 1, prefix=f"t{point}-", TemporalPositionIdentifier=point)
    entries = list(index_archive(archive, workers=1))
    assert [entry.shape for entry in entries] == [(7, 5, 4)] * 3
    assert len({entry.key for entry in entries}) == 3
    assert {entry.series_instance_uid for entry in entries} == {"1.2.9.1"}
    assert read_entry(archive, entries[1]).volume.shape == (7, 5, 4)
    (archive / "dynamic" / "t3-2.dcm").unlink()
    assert reasons(archive) == [Reason.SEVERAL_VOLUMES]


def test_copies_are_left_aside_and_conflicts_refused(archive, write):
    for path in write("one", 1):
        (archive / f"copy-{path.name}").write_bytes(path.read_bytes())
    entry = only(archive)
    assert (entry.duplicates, entry.images, entry.refusal) == (4, 4, None)
    changed = (archive / "copy-2.dcm").read_bytes()
    (archive / "copy-2.dcm").write_bytes(changed[:-1] + b"\x01")
    assert only(archive).reason is Reason.DAMAGED


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


def test_compressed_bombs_are_refused_before_decoding(archive):
    museum.compressed_bomb(archive)
    assert "cannot hold" in only(archive).refusal
    museum.compressed_bomb(archive, museum.JPEGBaseline8Bit)
    assert only(archive).reason is Reason.DAMAGED


def test_loops_pipes_devices_and_odd_names_do_not_stop_it(archive, write):
    museum.hostile_tree(archive)
    write("good", 1)
    entries = list(index_archive(archive, workers=1))
    assert [entry.reason for entry in entries] == [None] + [Reason.DAMAGED] * 3
    assert all(len(entry.key) == 16 for entry in entries)


def test_file_without_permission_is_unreadable(archive, write, monkeypatch):
    """By a stand-in, because tests may run as root, who may read everything."""
    write("s", 1)
    monkeypatch.setattr(catalogue, "peek_plain", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert {(entry.reason, entry.refusal) for entry in index_archive(archive, workers=1)} == {
        (Reason.UNREADABLE, "cannot be read (denied)")
    }


def test_damaged_file_in_the_folder_of_one_series_counts_against_it(archive, write):
    write("alone", 1)[0].write_bytes(b"no longer DICOM")
    write("shared", 2)
    write("shared", 3, prefix="other")
    (archive / "shared" / "broken.dcm").write_bytes(b"")
    assert reasons(archive) == [Reason.DAMAGED, None, None, Reason.DAMAGED, Reason.DAMAGED]


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
