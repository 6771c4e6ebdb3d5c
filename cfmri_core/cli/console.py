"""What commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence

import typer

from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import json_text
from cfmri_core.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0


def emit(data: object, as_json: bool, text: str) -> None:
    """Print a result once: as JSON and nothing else, or as text for people."""
    typer.echo(json_text(data) if as_json else printable(text))


def note(message: str) -> None:
    """Tell something on standard error."""
    typer.echo(printable(message), err=True)


def warn(message: str) -> None:
    """Tell something on standard error that the user must not overlook."""
    typer.secho(f"warning: {printable(message)}", err=True, fg=typer.colors.YELLOW)


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: names of files and what is in their headers come from anywhere."""
    if text.isprintable():
        return text
    return "".join("\N{REPLACEMENT CHARACTER}" if _steers(one) else one for one in text)


def _steers(character: str) -> bool:
    """Whether it is a control, formatting or unpaired character, or separates lines; tab and line feed may."""
    category = unicodedata.category(character)
    return character not in "\n\t" and (category.startswith("C") or category in ("Zl", "Zp"))


def table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of text in aligned columns."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def formatted(value: object) -> str:
    """Return a value as people write it: few digits, a dash for unknown."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def choice(name: str, value: str, accepted: tuple[str, ...]) -> str:
    """Return the value if it is one of the accepted ones.

    Raises:
        RequestError: It is not; the hint lists them.
    """
    if value not in accepted:
        raise RequestError(f"{name} '{value}' is not known.", f"Use one of: {', '.join(accepted)}.")
    return value


@contextlib.contextmanager
def progress_shown() -> Iterator[Progress]:
    """Yield a progress callback: a bar on a terminal, now and then a line otherwise; both on standard error."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def update(step: int, total: int, message: str) -> None:
            bars.update(task, completed=step, total=total, description=printable(message))

        yield update


class _Lines:
    """Print a progress line when the last one is some seconds old, and at the end; the same end is told once."""

    def __init__(self) -> None:
        self._printed_at = -float("inf")
        self._told: tuple[int, int, str] | None = None

    def __call__(self, step: int, total: int, message: str) -> None:
        now = time.monotonic()
        is_end = step == total and (step, total, message) != self._told
        if now - self._printed_at >= _SECONDS_BETWEEN_LINES or is_end:
            self._printed_at, self._told = now, (step, total, message)
            note(f"{message or 'working'}: {step} of {total}")
