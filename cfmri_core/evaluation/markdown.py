"""Figures of result files as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Shown where there is no figure.
NOTHING = "\N{EN DASH}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def interval_text(value: Mapping[str, Any] | None, digits: int, factor: float = 1.0) -> str:
    """Return a mean with its interval as it stands in a result file; a dash where there is none."""
    middle = None if value is None else value.get("mean", value.get("value"))
    if value is None or middle is None:
        return NOTHING
    text = f"{factor * middle:.{digits}f}"
    low, high = value.get("low"), value.get("high")
    if low is None or high is None or f"{factor * low:.{digits}f}" == text == f"{factor * high:.{digits}f}":
        return text
    return f"{text} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def cell_text(cell: object) -> str:
    """Return a cell of a `SummaryTable` as it stands in a result file."""
    if isinstance(cell, Mapping):
        return interval_text(cell, 3)
    return NOTHING if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def p_text(value: float | None) -> str:
    """Return a p-value."""
    return NOTHING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
