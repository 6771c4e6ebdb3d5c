import resource
import signal

import pydicom
import pytest
from phantoms import PATIENT

from cfmri_core.archive.export import export_series, key_from
from cfmri_core.archive.index import index_archive, read_entry
from cfmri_core.errors import RequestError, ResourceError

KEY = b"k" * 32


def exported(archive, output, key=KEY):
    return export_series(archive, list(index_archive(archive, workers=1)), output, key)


def test_usable_series_are_written_and_the_rest_counted(archive, write, tmp_path):
    write("a", 1)
    write("b", 2, PatientID="OTHER")
    write("few", 3, 2)
    write("text", 4, BurnedInAnnotation="YES")
    report = exported(archive, tmp_path / "out")
    assert (report.series, report.files) == (2, 8)
    assert report.left_out == {"too few slices": 1, "text burned in": 1}
    assert len(list((tmp_path / "out").iterdir())) == 2
    for original, clean in zip(
        sorted(index_archive(archive, workers=1), key=lambda entry: entry.series_instance_uid)[:1],
        index_archive(tmp_path / "out", workers=1),
        strict=False,
    ):
        one, two = read_entry(archive, original).volume, read_entry(tmp_path / "out", clean).volume
        assert (one.voxels == two.voxels).all()
        assert one.has_same_grid(two)


def test_no_byte_and_no_name_of_the_export_says_whose_it_is(archive, write, tmp_path):
    write("SENTINEL", 1, PatientComments="SENTINEL")
    exported(archive, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert "SENTINEL" not in str(path.relative_to(tmp_path))
        if path.is_file():
            content = path.read_bytes()
            values = [value.encode() for value in PATIENT.values() if len(value) > 1]
            assert not any(value in content for value in [*values, b"1.2.9.1", b"20200102"])


def test_second_run_adds_what_is_missing_under_the_same_names(archive, write, tmp_path):
    write("a", 1)
    exported(archive, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")}
    write("b", 2)
    report = exported(archive, tmp_path / "out")
    assert (report.series, report.already_there) == (1, 1)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.dcm")}
    assert before.items() < after.items()
    datasets = [pydicom.dcmread(path) for path in after]
    assert len({dataset.PatientID for dataset in datasets}) == 1
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 2


def test_series_that_grew_since_it_was_exported_is_not_called_finished(archive, write, tmp_path):
    late = write("a", 1, 5)[4]
    content = late.read_bytes()
    late.unlink()
    exported(archive, tmp_path / "out")
    late.write_bytes(content)
    report = exported(archive, tmp_path / "out")
    assert (report.series, report.already_there) == (0, 0)
    assert report.left_out == {"changed since it was exported": 1}
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 4


def test_file_that_broke_since_leaves_its_series_out_whole(archive, write, tmp_path):
    files = write("a", 1)
    entries = list(index_archive(archive, workers=1))
    files[2].write_bytes(b"broken")
    report = export_series(archive, entries, tmp_path / "out", KEY)
    assert sum(report.left_out.values()) == 1
    assert not list((tmp_path / "out").rglob("*.dcm"))


def test_a_full_disk_stops_the_export_and_is_not_held_against_the_series(archive, write, tmp_path):
    """By a limit on file sizes, which writes meet as they meet a full disk."""
    write("a", 1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1][1]))
    try:
        with pytest.raises(ResourceError, match="Cannot write"):
            exported(archive, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before[1])
        signal.signal(signal.SIGXFSZ, before[0])
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert exported(archive, tmp_path / "out").series == 1


def test_output_inside_the_archive_is_refused(archive, write):
    with pytest.raises(RequestError, match="lies in the archive"):
        exported(archive, archive / "out")


def test_key_is_made_once_and_kept_private(tmp_path):
    key = key_from(tmp_path / "key")
    assert len(key) == 32
    assert key_from(tmp_path / "key") == key
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").write_text("letter")
    with pytest.raises(RequestError, match="holds no key"):
        key_from(tmp_path / "other")
    with pytest.raises(ResourceError):
        key_from(tmp_path / "absent" / "key")
