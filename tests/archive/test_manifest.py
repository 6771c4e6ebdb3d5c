import csv
import sys

import duckdb
import pytest

from cfmri_core.archive.index import index_archive
from cfmri_core.archive.manifest import COLUMNS, Summary, row_of, write_manifest
from cfmri_core.errors import RequestError


@pytest.fixture
def entries(archive, write):
    write("good", 1, Manufacturer='GE, "MEDICAL"')
    write("few", 2, 2, EchoTime="")
    (archive / "broken.dcm").write_bytes(b"")
    return list(index_archive(archive, workers=1))


def test_parquet_and_csv_hold_one_row_per_series_with_its_reason(entries, tmp_path):
    write_manifest(tmp_path / "m.parquet", entries)
    write_manifest(tmp_path / "m.csv", entries)
    table = duckdb.read_parquet(str(tmp_path / "m.parquet"))
    assert dict(zip(table.columns, map(str, table.types), strict=True)) == COLUMNS
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]
    assert rows == [row_of(entry) for entry in entries]
    assert [row["reason"] for row in rows] == ["too few slices", None, "damaged"]
    assert rows[1]["manufacturer"] == 'GE, "MEDICAL"'
    with (tmp_path / "m.csv").open() as stream:
        assert [row["key"] for row in csv.DictReader(stream)] == [entry.key for entry in entries]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "m.csv", "m.parquet"]


def test_manifest_holds_no_patient_data_and_no_path(entries, tmp_path):
    write_manifest(tmp_path / "m.csv", entries)
    text = (tmp_path / "m.csv").read_text()
    for value in ("SENTINEL", "19700101", "1.2.9", "good", "few", "broken", str(tmp_path)):
        assert value not in text.replace("too few slices", "")


def test_failure_on_the_way_leaves_the_earlier_manifest(entries, tmp_path):
    path = tmp_path / "m.parquet"
    write_manifest(path, entries)
    earlier = path.read_bytes()

    def failing():
        yield entries[0]
        raise RequestError("no more")

    with pytest.raises(RequestError, match="no more"):
        write_manifest(path, failing())
    assert path.read_bytes() == earlier


def test_summary_counts_by_reason(entries):
    summary = Summary()
    assert list(summary.counted(entries)) == entries
    assert (summary.usable, summary.left_out) == (1, {"too few slices": 1, "damaged": 1})


def test_other_endings_and_missing_duckdb_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match=r"\.parquet or \.csv"):
        write_manifest(tmp_path / "m.xlsx", [])
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(RequestError, match=r"cfmri\[archive\]"):
        write_manifest(tmp_path / "m.parquet", [])
