"""EVALUATION.md from result files."""

import itertools
import json

import pytest

from cfmri_core.errors import RequestError
from cfmri_core.evaluation.aims import aim_rows
from cfmri_core.evaluation.markdown import interval_text
from cfmri_core.evaluation.summary import evaluation_page


def mean(value, spread=0.1):
    return {"mean": value, "low": value - spread, "high": value + spread, "patients": 40}


def arm(psnr, slope, **others):
    return {"psnr_db": mean(psnr), "slope_noise_free": mean(slope), **{name: mean(v) for name, v in others.items()}}


EDIT = {
    "suite": "edit",
    "provenance": {"command": "cfmri evaluate x", "git commit": "abc123", "machine": "a machine"},
    "settings": {
        "seed": 7,
        "families": {"source": "no learning", "paper": "learned from unpaired scans",
                     "inversion": "learned from unpaired scans", "fast": "learned from simulated pairs"},
    },
    "n_patients": 40,
    "aggregate": {
        "cross-vendor": {
            "source": arm(14, 0), "paper": arm(15, 0.1), "inversion": arm(23, 0.93, z_jitter_ratio=1.3),
            "fast": arm(30, 0.99),
            "exact change": {**arm(30, 1.0), "psnr_noise_free_db": mean(150.0)},
            "truth": {"psnr_db": {"mean": None, "low": None, "high": None, "patients": 0}},
        },
        "decorrelated": {"inversion": arm(20, 0.5)},
        "single echo_time_ms": {"inversion": arm(20, 0.9), "fast": arm(20, 0.95)},
        "single flip_angle_deg": {"inversion": arm(20, 0.3), "fast": arm(20, 0.97)},
    },
    "tests": {"psnr_db: inversion - paper (cross-vendor)": {
        "median_difference": 8.0, "low": 7.0, "high": 9.0, "p": 1e-6, "p_holm": 1e-5, "patients": 40}},
    "tables": [{"name": "fooling: cross-vendor", "caption": "A caption.", "header": ["score", "inversion", "paper"],
                "rows": [["field_strength_t fooled", mean(0.9), 0.769], ["nothing", None, None]]}],
}  # fmt: skip
AUGMENTATION = {
    "suite": "augmentation", "provenance": {}, "settings": {}, "n_patients": 12,
    "table": [{"direction": "ge-to-siemens", "arm": "counterfactual", "test": "SIEMENS",
               "metrics": {"fat dice": {"value": 0.91, "low": 0.9, "high": 0.92}}}],
    "primary_comparisons": {"a - b": {"test": {"p": 0.02, "p_holm": 0.04},
                                      "mean_difference": {"value": 0.01, "low": 0.0, "high": 0.02}}},
    "gap_closed": {"ge-to-siemens: counterfactual": {"value": 0.8, "low": 0.7, "high": 0.9}},
}  # fmt: skip
TRUST = {
    "suite": "trust", "provenance": {}, "settings": {}, "n_patients": 40,
    "aggregate": {"in support": {"gate": {"flagged": mean(0.04)}}},
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    for name, content in {"edit": EDIT, "edit-shifted": EDIT, "augmentation": AUGMENTATION, "trust": TRUST}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "edit-targets.json").write_text('{"same": "same"}')
    return tmp_path


def test_every_result_has_its_section_and_its_origin(results):
    page = evaluation_page(results)
    headings = [line for line in page.split("\n") if line.startswith("## ")]
    assert [heading.split()[1] for heading in headings] == ["What", "Editing", "Segmentation", "Trust:", "How"]
    for words in (
        "abc123",
        "`cfmri evaluate x`",
        "a machine",
        "seed 7",
        "results/edit-shifted.json",
        "Another simulator setting",
    ):
        assert words in page
    assert "edit-targets" not in page


def test_tables_hold_the_figures_beside_the_published_ones(results):
    page = evaluation_page(results)
    assert "| inversion | 23.0 [22.9, 23.1] |" in page
    assert "0.657" in page
    assert "| exact change | 30.0 [29.9, 30.1] | exact |" in page
    assert "| field_strength_t fooled | 0.900 [0.800, 1.000] | 0.769 |" in page
    assert "0.889 / 0.536 / 0.739" in page
    assert "80 [70, 90]" in page
    assert "8.00 [7.00, 9.00] | < 0.001 | < 0.001 | 40" in page


def test_tables_have_as_many_cells_in_every_row(results):
    lines = evaluation_page(results).split("\n")
    for above, below in itertools.pairwise(lines):
        if above.startswith("|") and below.startswith("|"):
            assert above.count("|") == below.count("|"), below


def test_families_are_told_apart(results):
    page = evaluation_page(results)
    first, second, third = (
        page.index(f"**{family}**") for family in dict.fromkeys(sorted(EDIT["settings"]["families"].values()))
    )
    assert first < page.index("| fast |") < second < page.index("| inversion |") < third < page.index("| source |")


def test_missed_aims_are_said(results):
    rows = {(row[0], row[1]): row[2:] for row in aim_rows(EDIT["aggregate"], lambda value: f"{value:.2f}")}
    assert rows["PSNR at least 8 dB above the unedited source", "inversion"] == ["9.00", "yes"]
    assert rows["slice-to-slice jitter within 10 % of the truth's", "inversion"] == ["1.30", "**no**"]
    assert rows["decorrelated grid: change recovered at least 0.7", "inversion"] == ["0.50", "**no**"]
    alone = "each parameter alone: change recovered at least 0.8"
    assert rows[alone, "inversion"] == ["0.30 (flip_angle_deg)", "**no**"]
    assert rows[alone, "fast"] == ["0.95 (echo_time_ms)", "yes"]
    assert ("there and back at least 40 dB", "fast") not in rows


def test_what_is_not_asked_for_is_held_against_a_second_scan_too():
    moved = {"flip_angle_deg moved": {"mean": 0.2}}
    rows = aim_rows({"single echo_time_ms": {"fast": moved, "second scan": moved}}, lambda value: f"{value:.2f}")
    assert [row[1:] for row in rows] == [
        [arm, "0.20 (flip_angle_deg moved)", "**no**"] for arm in ("fast", "second scan")
    ]


def test_of_several_figures_the_worst_decides():
    seen = {"manufacturer_model fooled": {"mean": 0.97}, "scan_options fooled": {"mean": 0.9}}
    (row,) = aim_rows({"cross-vendor": {"fast": seen}}, lambda value: f"{value:.2f}")
    assert row[1:] == ["fast", "0.90 (scan_options fooled)", "**no**"]


@pytest.mark.parametrize("name", ["edit", "augmentation", "trust"])
def test_one_result_is_enough(results, name):
    for path in results.glob("*.json"):
        if path.stem != name:
            path.unlink()
    assert f"results/{name}.json" in evaluation_page(results)


def test_no_or_damaged_results_are_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no result"):
        evaluation_page(tmp_path)
    (tmp_path / "edit.json").write_text("{")
    with pytest.raises(RequestError, match="not readable"):
        evaluation_page(tmp_path)


def test_intervals_as_text():
    assert interval_text(mean(1.0), 1) == "1.0 [0.9, 1.1]"
    assert interval_text(mean(60.0, 0), 0) == "60"
    assert interval_text({"mean": 1.0, "low": None, "high": None}, 1) == "1.0"
    assert interval_text({"mean": None}, 1) == interval_text(None, 1) == "\N{EN DASH}"
