"""A table of figures over all patients, for the result file, the report and the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cfmri_core.evaluation.markdown import markdown_table
from cfmri_core.evaluation.report import Section, Table, interval, number
from cfmri_core.evaluation.statistics import Interval

Cell = str | float | Interval | None


@dataclass(frozen=True)
class SummaryTable:
    """Figures over all patients that are more than the mean of one figure per patient.

    Attributes:
        name: Name in the result file and heading in the report.
        caption: What the figures are, with units.
        header: Column names.
        rows: Text, number, or mean with its interval, one per column.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def texts(self) -> list[tuple[str, ...]]:
        """Return header and rows as texts."""
        return [tuple(self.header), *(tuple(map(_text, row)) for row in self.rows)]

    def section(self) -> Section:
        """Return the table as a section of a report."""
        header, *rows = self.texts()
        return Section(self.name[:1].upper() + self.name[1:], blocks=[Table(self.caption, header, rows)])


def markdown(tables: Sequence[SummaryTable]) -> str:
    """Return the tables of a summary as Markdown."""
    lines: list[str] = []
    for table in tables:
        header, *rows = table.texts()
        lines += [f"### {table.name}", "", *markdown_table(header, rows), "", table.caption, ""]
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    return interval(cell.mean, cell.low, cell.high) if isinstance(cell, Interval) else number(cell)
