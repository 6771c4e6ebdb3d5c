"""The report is one safe, self-contained file."""

import math
import re

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.evaluation.report import (
    Notes,
    Picture,
    Report,
    Section,
    Table,
    interval,
    number,
    parameter_table,
    write_report,
)


def test_report_holds_everything_and_fetches_nothing(tmp_path):
    blocks = [Picture("data:image/png;base64,AA==", "a <picture>"), Table("t", ["x"], [["1"]]), Notes(["careful"])]
    report = Report("Title", "Lead", [Section("Part", ["words"], blocks)], {"seed": "0"})
    text = write_report(tmp_path / "r.html", report).read_text()
    for expected in ("SYNTHETIC", "not for diagnosis", "Title", "words", "careful", "seed", "a &lt;picture&gt;"):
        assert expected in text
    assert not re.search(r"(src|href)=[\"'](?!data:)", text)
    assert "http" not in text


def test_changed_parameters_are_emphasised_and_unknown_ones_dashed(tmp_path):
    table = parameter_table(
        "c", {"a": AcquisitionParameters(echo_time_ms=2.4), "b": {"echo_time_ms": 1.4}}, ["echo_time_ms"]
    )
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["echo time (ms)"] == ["2.4", "1.4"]
    assert rows["field strength (T)"] == ["\N{EN DASH}", "\N{EN DASH}"]
    text = write_report(tmp_path / "r.html", Report("T", "L", [Section("S", blocks=[table])])).read_text()
    assert text.count('class="changed"') == 2


def test_numbers_and_intervals_are_short():
    assert number(1.23456) == "1.23"
    assert number(math.nan) == "\N{EN DASH}"
    assert interval(1.0, 0.5, 1.5) == "1 [0.5, 1.5]"
    assert interval(1.0, math.nan, math.nan) == "1"
