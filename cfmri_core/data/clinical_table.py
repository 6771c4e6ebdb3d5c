"""Acquisition parameters from the clinical table of Duke-Breast-Cancer-MRI."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from cfmri_core.acquisition import AcquisitionParameters, require_parameter, usable
from cfmri_core.data.tables import read_rows
from cfmri_core.errors import RequestError

PATIENT = re.compile(r"Breast_MRI_\d+")
CLINICAL_TABLE = "Clinical_and_Other_Features"
#: Parameter -> column, letters and digits only: the table's own headings hold line breaks and stray spaces.
COLUMNS = {
    "manufacturer": "manufacturer",
    "manufacturer_model": "manufacturermodelname",
    "field_strength_t": "fieldstrengthtesla",
    "scan_options": "scanoptions",
    "flip_angle_deg": "flipangle",
    "slice_thickness_mm": "slicethickness",
    "echo_time_ms": "teechotime",
    "repetition_time_ms": "trrepetitiontime",
}
#: Columns that hold the value itself, in milliseconds; the others hold codes.
UNCODED = frozenset({"echo_time_ms", "repetition_time_ms"})
#: Group headings, column names, legend: the names are in one of the first rows.
HEADING_ROWS = 3
_PATIENT_COLUMN = "patientid"
_MISSING = frozenset({"", "na", "nc", "nan", "none"})

#: Message, patient, detail.
Trouble = tuple[str, str, str]


def read_clinical_table(path: Path) -> tuple[dict[str, AcquisitionParameters], list[Trouble]]:
    """Read the acquisition parameters of every patient.

    Values are codes, and the row below the column names says what they mean (``1.494=0,1.5=1``). A missing value
    leaves that parameter unknown; so does a code the legend does not have, which is reported.

    Returns:
        Parameters by patient, and what could not be used.

    Raises:
        RequestError: Not readable, or without a column of patients.
    """
    rows = read_rows(path)
    heading, columns = _heading(path, rows)
    legend = next(rows, [])
    if PATIENT.fullmatch(_cell(legend, heading)):
        raise RequestError(f"{path} lacks the row that explains its codes.", "Keep all three rows of headings.")
    codes = {name: _codes(_cell(legend, column)) for name, column in columns.items() if name not in UNCODED}
    troubles: list[Trouble] = [
        (f"The clinical table has no column for {name}; it comes from the DICOM header.", "", "")
        for name in COLUMNS
        if name not in columns
    ]
    found = {}
    for row in rows:
        patient = _cell(row, heading)
        if not patient:
            continue
        values = {}
        for name, column in columns.items():
            values[name], trouble = _value(name, _cell(row, column), codes.get(name))
            troubles += [(trouble, patient, _cell(row, column))] if trouble else []
        found[patient] = AcquisitionParameters(**values)  # type: ignore[arg-type]
    return found, troubles


def plain(text: str) -> str:
    """Only the letters and digits of a text, in lower case: tables and folders spell names differently."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _heading(path: Path, rows: Iterator[list[str]]) -> tuple[int, dict[str, int]]:
    """Read down to the column names; return the column of patients and those of the parameters."""
    for row in islice(rows, HEADING_ROWS):
        names = [plain(cell) for cell in row]
        if _PATIENT_COLUMN in names:
            columns = {name: names.index(column) for name, column in COLUMNS.items() if column in names}
            return names.index(_PATIENT_COLUMN), columns
    raise RequestError(f"{path} has no column 'Patient ID' in its first {HEADING_ROWS} rows.", "Download it again.")


def _codes(legend: str) -> dict[str, str]:
    """Meaning by code of a legend such as ``1.494=0,1.5=1``."""
    pairs = (entry.rpartition("=") for entry in legend.split(","))
    return {_code(code): value.strip() for value, equals, code in pairs if equals}


def _value(name: str, cell: str, codes: Mapping[str, str] | None) -> tuple[str | float | None, str]:
    """The value a cell stands for, and what is wrong with it."""
    if plain(cell) in _MISSING:
        return None, ""
    if codes is not None and _code(cell) not in codes:
        return None, f"The clinical table holds a code for {name} that its legend does not have; unknown there."
    value = usable(require_parameter(name), cell if codes is None else codes[_code(cell)])
    return value, "" if value is not None else f"The clinical table holds no usable value of {name}; unknown there."


def _code(text: str) -> str:
    """A code as text: spreadsheets turn 2 into 2.0."""
    return re.sub(r"\.0+$", "", text.strip())


def _cell(row: list[str], column: int) -> str:
    return row[column] if column < len(row) else ""
