import pydicom
import pytest


@pytest.fixture
def archive(series, tmp_path):
    """The simulated series as if it were a scan, the same as it is, and a file that is broken."""
    root = tmp_path / "archive"
    (root / "scan").mkdir(parents=True)
    (root / "simulated").symlink_to(series)
    for path in sorted(series.iterdir()):
        dataset = pydicom.dcmread(path)
        del dataset[0x0008001C]
        dataset.ImageType, dataset.SeriesInstanceUID = ["ORIGINAL", "PRIMARY"], "1.2.3"
        dataset.save_as(root / "scan" / path.name)
    (root / "broken.dcm").write_bytes(b"")
    return root


def test_index_counts_and_writes_a_manifest(cfmri, archive, tmp_path):
    outcome = cfmri("index", archive, "--manifest", tmp_path / "m.csv", "--cache", tmp_path / "c.db", "--json")
    assert outcome.code == 0
    assert outcome.json() == {
        "usable": 1, "left_out": {"synthetic": 1, "damaged": 1}, "duplicates": 0, "manifest": str(tmp_path / "m.csv"),
    }  # fmt: skip
    assert (tmp_path / "m.csv").read_text().count("\n") == 4
    outcome = cfmri("index", archive, "--cache", tmp_path / "c.db")
    assert outcome.out.split("\n")[0].split() == ["usable", "1"]
    assert "files/s" not in outcome.err


def test_export_writes_what_index_finds(cfmri, archive, series, tmp_path):
    outcome = cfmri("export", archive, tmp_path / "out", "--key", tmp_path / "key", "--json")
    assert outcome.code == 0
    assert outcome.json()["files"] == len(list(series.iterdir()))
    assert cfmri("index", tmp_path / "out", "--json").json()["usable"] == 1


def test_wrong_requests_are_refused_before_any_work(cfmri, archive, tmp_path):
    assert cfmri("index", archive, "--manifest", tmp_path / "m.txt").code == 2
    assert cfmri("index", tmp_path / "absent").code == 3
    assert cfmri("export", archive, tmp_path / "out", "--key", tmp_path / "out" / "key").code == 2
    assert cfmri("export", archive, archive / "out", "--key", tmp_path / "key").code == 2
