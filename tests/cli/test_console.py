"""Progress and tables."""

import sys

from rich.progress import Progress

from cfmri_core.cli import console


def test_lines_come_seldom_but_the_last_always(capsys):
    with console.progress_shown() as progress:
        for step in range(1, 101):
            progress(step, 100, "editing")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["editing: 1 of 100", "editing: 100 of 100"]


def test_a_terminal_gets_a_bar(monkeypatch):
    drawn = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(Progress, "update", lambda _self, _task, **state: drawn.append(state))
    with console.progress_shown() as progress:
        progress(3, 10, "editing")
    assert drawn == [{"completed": 3, "total": 10, "description": "editing"}]


def test_tables_are_aligned():
    assert console.table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
    assert console.table([]) == ""


def test_values_are_short_and_unknown_ones_dashed():
    assert [console.formatted(value) for value in (None, 1.23456, "text", 3)] == ["-", "1.235", "text", "3"]
