"""The HTML report of a stress test: worst values, a curve per parameter, the worst patients."""

from __future__ import annotations

from collections.abc import Mapping

from cfmri_core.acquisition import require_parameter
from cfmri_core.evaluation import figures
from cfmri_core.evaluation.report import Notes, Picture, Report, Section, Table, interval, number
from cfmri_core.evaluation.segmentation_suite import TISSUES
from cfmri_core.evaluation.statistics import Interval
from cfmri_core.evaluation.stress_test import AS_SCANNED, METRIC, StressTest, arm_name
from cfmri_core.evaluation.suite import SuiteResult
from cfmri_core.io.json_text import json_text

_MEASURES = {"fat dice": "Dice fat", "fibroglandular dice": "Dice fibroglandular", METRIC: "Mean Dice",
             "fibroglandular hd95_mm": "HD95 fibroglandular (mm)",
             "fibroglandular volume_error_percent": "Fibroglandular volume error (%)"}  # fmt: skip
_LIMITS = (
    "The images are counterfactuals: what is found is about the segmenter as far as the editor can be trusted.",
    "A patient who was scanned at a value counts there as scanned, with a change of 0: the fewer the others, the "
    "smaller the mean change.",
    "One parameter is changed at a time; some values do not occur on a scanner with the others.",
    "A drop is a reason to test on scans of that kind, not a measurement of how the segmenter does on them.",
)


def stress_report(result: SuiteResult, test: StressTest, provenance: Mapping[str, str]) -> Report:
    """Compose the report."""
    sections = [table.section() for table in result.tables]
    sections += [_parameter(result, test, parameter) for parameter in test.values]
    sections += [
        Section(f"Patient {patient.patient}", blocks=[Picture(uri, caption) for caption, uri in patient.pictures])
        for patient in result.patients
        if patient.pictures
    ]
    sections.append(Section("Limits", blocks=[Notes(_LIMITS)]))
    settings = {
        key: value if isinstance(value, str) else json_text(value, None) for key, value in result.settings.items()
    }
    return Report(
        "Stress test of a segmenter",
        f"{len(result.patients)} patients, each segmented as scanned and as other acquisitions would have shown it. "
        "Means over patients with 95 % bootstrap intervals; pictured are the patients with the worst results.",
        sections,
        {**provenance, **settings},
    )


def _parameter(result: SuiteResult, test: StressTest, parameter: str) -> Section:
    found, values = result.aggregate[parameter], test.values[parameter]
    title = _title(parameter)
    dices = {tissue: f"{tissue} dice" for tissue in TISSUES.values()}
    curves = {tissue: [_limits(found[arm_name(value)][metric]) for value in values] for tissue, metric in dices.items()}
    scanned = {tissue: found[AS_SCANNED][metric].mean for tissue, metric in dices.items()}
    places = list(values)
    picture = Picture(
        figures.curve_figure(curves, places, (title, "Dice"), scanned),
        f"Dice under other values of {title}; bars are 95 % intervals, dashed lines the scans as they are.",
    )
    return Section(title[:1].upper() + title[1:], blocks=[picture, _table(result, test, parameter)])


def _table(result: SuiteResult, test: StressTest, parameter: str) -> Table:
    found = result.aggregate[parameter]
    tests = {comparison.first: comparison.name for comparison in test.comparisons if comparison.kind == parameter}
    rows = []
    for arm in (AS_SCANNED, *map(arm_name, test.values[parameter])):
        cells = [_cell(found[arm].get(metric)) for metric in _MEASURES]
        tested = result.tests.get(tests.get(arm, ""))
        rows.append([arm, *cells, number(tested.p_holm if tested else None)])
    header = ["Value", *_MEASURES.values(), "p (Holm)"]
    return Table(f"Mean [95 % interval]; Wilcoxon test of {METRIC} against the scan as it is.", header, rows)


def _title(parameter: str) -> str:
    unit = require_parameter(parameter).unit
    words = parameter.removesuffix(f"_{unit.lower()}").replace("_", " ")
    return f"{words} ({unit})" if unit else words


def _limits(found: Interval) -> tuple[float, float, float]:
    return found.mean, found.low, found.high


def _cell(found: Interval | None) -> str:
    return interval(found.mean, found.low, found.high) if found else number(None)
