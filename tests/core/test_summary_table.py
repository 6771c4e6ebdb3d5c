from cfmri_core.evaluation.statistics import Interval
from cfmri_core.evaluation.summary_table import SummaryTable

TABLE = SummaryTable(
    "within cells",
    "What it is.",
    ["parameter", "error"],
    [["echo_time_ms", 0.01234], ["all", Interval(0.5, 0.4, 0.6, 9)], ["x", None]],
)


def test_numbers_and_intervals_become_text():
    expected = [("parameter", "error"), ("echo_time_ms", "0.0123"), ("all", "0.5 [0.4, 0.6]"), ("x", "\N{EN DASH}")]
    assert TABLE.texts() == expected


def test_a_table_is_a_section_of_the_report():
    section = TABLE.section()
    assert section.title == "Within cells"
    (block,) = section.blocks
    assert (block.caption, list(block.header), len(block.rows)) == ("What it is.", ["parameter", "error"], 3)
