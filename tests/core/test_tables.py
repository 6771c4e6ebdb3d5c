"""Tables: CSV and workbooks give the same rows; anything else is one line."""

import zipfile

import pytest
from duke_tree import write_workbook

from cfmri_core.data.tables import read_rows
from cfmri_core.errors import RequestError

ROWS = [["Patient ID", "Scan Options", "TE"], ["Breast_MRI_001", "PFP\\FS & more", "2.4"], ["Breast_MRI_002", "", "1"]]


@pytest.mark.parametrize("inline", [True, False])
def test_a_workbook_gives_its_first_sheet(tmp_path, inline):
    assert list(read_rows(write_workbook(tmp_path / "table.xlsx", ROWS, inline))) == ROWS


def test_csv_gives_the_same_rows(tmp_path):
    path = tmp_path / "table.csv"
    text = '\ufeffPatient ID, Scan Options ,TE\r\nBreast_MRI_001,"PFP\\FS & more",2.4\r\nBreast_MRI_002,,1\r\n'
    path.write_text(text, encoding="utf-8")
    assert list(read_rows(path)) == ROWS


def test_absent_cells_are_empty(tmp_path):
    rows = [["a", "", "", "d"], ["", "b"]]
    assert list(read_rows(write_workbook(tmp_path / "table.xlsx", rows))) == rows


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        '<row r="1"><c r="B1"><v>1</v></c><c r="A1"><v>2</v></c></row>',
        '<row><c r="ZZZZ1"><v>1</v></c></row>',
        '<row><c t="s"><v>7</v></c></row>',
        '<row><c t="s"><v>seven</v></c></row>',
        "<row>",
        None,
    ],
)
def test_a_damaged_workbook_is_one_line(tmp_path, content):
    path = tmp_path / "table.xlsx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("other.xml" if content is None else "xl/worksheets/sheet1.xml", f"<a>{content}</a>")
    with pytest.raises(RequestError, match="not a readable table"):
        list(read_rows(path))


def test_entities_are_refused(tmp_path):
    path = tmp_path / "table.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", '<!DOCTYPE a [<!ENTITY b "bbbb">]><a><row>&b;</row></a>')
    with pytest.raises(RequestError, match="not a readable table"):
        list(read_rows(path))


def test_an_absent_table_and_an_endless_cell_are_one_line(tmp_path):
    (tmp_path / "long.csv").write_text("x" * 100_000)
    for name in ("long.csv", "absent.csv", "absent.xlsx"):
        with pytest.raises(RequestError, match="not a readable table"):
            list(read_rows(tmp_path / name))
