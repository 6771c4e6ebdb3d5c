"""One self-contained HTML file: text, tables and pictures, nothing fetched from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import jinja2

from cfmri_core.acquisition import PARAMETERS, AcquisitionParameters
from cfmri_core.io.atomic import write_text


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        uri: PNG as a data URI, see `cfmri_core.evaluation.figures`.
        caption: What is seen, with units.
    """

    kind: ClassVar[str] = "picture"
    uri: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        caption: What the rows are, with units.
        header: Column names.
        rows: Cells, one text per column.
        changed: First cells of the rows to be emphasised.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    changed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Notes:
    """A list of remarks, for warnings and limits."""

    kind: ClassVar[str] = "notes"
    lines: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading."""

    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Picture | Table | Notes] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Heading of the page.
        lead: One or two sentences: what was done and what came out.
        sections: Parts in reading order.
        provenance: How it was made: command, versions, model sha256, seed, machine.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> Path:
    """Write the report as one HTML file."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cfmri_core.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    write_text(path, environment.get_template("report.html").render(report=report))
    return path


def parameter_table(
    caption: str, columns: Mapping[str, Mapping[str, object] | AcquisitionParameters], changed: Sequence[str] = ()
) -> Table:
    """Lay acquisition parameters side by side, one column each, one row per parameter with its unit.

    Args:
        caption: What the columns are.
        columns: Column name to values by parameter name.
        changed: Parameters whose row is emphasised.
    """
    values = {
        name: column.as_dict() if isinstance(column, AcquisitionParameters) else column
        for name, column in columns.items()
    }
    labels = {parameter.name: _label(parameter.name, parameter.unit) for parameter in PARAMETERS}
    rows = [[label, *(number(column.get(name)) for column in values.values())] for name, label in labels.items()]
    return Table(caption, ["Parameter", *columns], rows, frozenset(labels[name] for name in changed if name in labels))


def number(value: object, digits: int = 3) -> str:
    """Return a value as the report prints it: a few significant digits, a dash for unknown or undefined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\N{EN DASH}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def interval(mean: float, low: float, high: float, digits: int = 3) -> str:
    """Return a mean with its confidence interval."""
    if math.isnan(low) or math.isnan(high):
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def _label(name: str, unit: str) -> str:
    words = name.removesuffix(f"_{unit.lower()}").replace("_", " ")
    return f"{words} ({unit})" if unit else words
