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


def test_an_end_that_is_polled_again_and_again_is_told_once(capsys):
    with console.progress_shown() as progress:
        for _ in range(5):
            progress(0, 0, "loading")
        for _ in range(5):
            progress(3, 3, "editing")
    assert capsys.readouterr().err.splitlines() == ["loading: 0 of 0", "editing: 3 of 3"]


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


def test_what_is_told_cannot_steer_the_terminal(capsys):
    hostile = "SIGNA\x1b]0;owned\x07 \x9b2J\u202egnp.exe \udcff"
    console.emit({}, as_json=False, text=f"model:\t{hostile}\nsecond line")
    console.note(hostile)
    console.warn(hostile)
    told = capsys.readouterr()
    harmless = "SIGNA�]0;owned� �2J�gnp.exe �"
    assert told.out == f"model:\t{harmless}\nsecond line\n"
    assert told.err.splitlines() == [harmless, f"warning: {harmless}"]


def test_names_in_any_script_stay_as_they_are():
    assert console.printable("Brüste\u00a0乳腺 ثدي é\n") == "Brüste\u00a0乳腺 ثدي é\n"


def test_a_bar_takes_brackets_for_what_they_are(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with console.progress_shown() as progress:
        progress(1, 2, "sub-[/red]")
