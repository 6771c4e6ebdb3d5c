"""Read tables as rows of text: CSV, and the first sheet of an Excel workbook."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from cfmri_core.errors import RequestError

TABLE_SUFFIXES = (".csv", ".xlsx")
#: A sheet that unpacks to more is refused, in bytes; the largest table of the Duke collection unpacks to less.
MAX_UNPACKED_BYTES = 2 * 1024**3
#: Longer cells are refused, in characters.
MAX_CELL_LENGTH = 65_536
_SHARED_STRINGS = "xl/sharedStrings.xml"
_SHEETS = "xl/worksheets/"


def read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a table, every cell as stripped text, absent cells empty.

    Numbers of a workbook are given as it stores them: ``2``, ``2.3879999999999999``.

    Raises:
        RequestError: Not a readable CSV or xlsx file.
    """
    rows = _workbook_rows(path) if path.suffix.lower() == ".xlsx" else _csv_rows(path)
    try:
        yield from rows
    except (OSError, csv.Error, zipfile.BadZipFile, ElementTree.ParseError, ValueError, KeyError, IndexError) as error:
        raise RequestError(
            f"{path}: not a readable table ({type(error).__name__}).", "Give a CSV or an .xlsx workbook."
        ) from None


def _csv_rows(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_CELL_LENGTH)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        for row in csv.reader(stream):
            yield [cell.strip() for cell in row]


def _workbook_rows(path: Path) -> Iterator[list[str]]:
    with zipfile.ZipFile(path) as archive:
        strings = _shared_strings(archive)
        with _member(archive, _first_sheet(archive)) as stream:
            for row in _elements(stream, "row"):
                cells: list[str] = []
                for cell in row:
                    column = _column(cell.get("r", ""), len(cells))
                    cells += [""] * (column - len(cells)) + [_cell_text(cell, strings)]
                yield cells


def _first_sheet(archive: zipfile.ZipFile) -> str:
    sheets = [name for name in archive.namelist() if name.startswith(_SHEETS) and name.endswith(".xml")]
    return min(sheets, key=lambda name: (len(name), name))


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if _SHARED_STRINGS not in archive.namelist():
        return []
    with _member(archive, _SHARED_STRINGS) as stream:
        return [_text(item) for item in _elements(stream, "si")]


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    if archive.getinfo(name).file_size > MAX_UNPACKED_BYTES:
        raise ValueError(name)
    with archive.open(name) as stream:
        if b"<!DOCTYPE" in stream.read(1024):  # entities could unpack to anything; no workbook has any
            raise ValueError(name)
    return archive.open(name)


def _elements(stream: IO[bytes], tag: str) -> Iterator[ElementTree.Element]:
    """Yield elements of a name one by one, forgetting each afterwards: a sheet can have a million rows."""
    events = ElementTree.iterparse(stream, events=("start", "end"))  # noqa: S314 - `_member` refuses declarations
    _, root = next(events)
    for event, element in events:
        if event == "end" and _name(element) == tag:
            yield element
            root.clear()
            element.clear()


def _cell_text(cell: ElementTree.Element, strings: list[str]) -> str:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = next((child.text or "" for child in cell if _name(child) == "v"), "")
    return strings[int(value)] if cell.get("t") == "s" and value else value.strip()


def _text(element: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in element.iter() if _name(part) == "t").strip()


def _column(reference: str, default: int) -> int:
    """Column number from 0 of a cell reference such as ``AB12``."""
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = number * 26 + ord(letter) - ord("A") + 1
    column = number - 1 if number else default
    if not default <= column < 16_384:
        raise ValueError(reference)
    return column


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
