"""The HTML report of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from cfmri_core.evaluation import figures
from cfmri_core.evaluation.report import Picture, Report, Section, Table, interval, number
from cfmri_core.evaluation.suite import SuiteResult
from cfmri_core.io.json_text import json_text

#: What each metric means, and its value in a perfect result.
_METRICS: Mapping[str, tuple[str, float | None]] = {
    "psnr_db": ("PSNR to the truth in the breast (dB)", None),
    "slope": ("Change recovered (0 nothing, 1 all of it)", 1.0),
    "ssim": ("SSIM to the truth in the breast", 1.0),
    "gradient_agreement": ("Gradient-orientation agreement with the truth", 1.0),
    "slice_gain_jitter": ("Slice-to-slice gain jitter", 0.0),
    "elapsed_s": ("Seconds per volume", None),
    "evaluations_per_slice": ("Network evaluations per slice", None),
}


def suite_report(result: SuiteResult, provenance: Mapping[str, str]) -> Report:
    """Compose the report of one suite: sums, tests, pictures of some patients, every patient's figures."""
    sections = [_summary(result)]
    if result.tests:
        sections.append(_tests(result))
    sections += [
        Section(f"Patient {patient.patient}", blocks=[Picture(uri, caption) for caption, uri in patient.pictures])
        for patient in result.patients
        if patient.pictures
    ]
    sections.append(_per_patient(result))
    settings = {
        key: value if isinstance(value, str) else json_text(value, None) for key, value in result.settings.items()
    }
    return Report(
        f"Evaluation: {result.suite}",
        f"{len(result.patients)} simulated patients. Means over patients with 95 % bootstrap confidence intervals "
        "(BCa, 10,000 resamples of patients). A simulator is not patients: no clinical claim follows.",
        sections,
        {**provenance, **settings},
    )


def _summary(result: SuiteResult) -> Section:
    metrics = _metric_names(result)
    header = ["Arm", *(_METRICS.get(metric, (metric, None))[0] for metric in metrics)]
    rows = []
    for arm, values in result.aggregate.items():
        cells = [interval(v.mean, v.low, v.high) if (v := values.get(metric)) else number(None) for metric in metrics]
        rows.append([arm, *cells])
    pictures = [_bars(result, metric) for metric in ("psnr_db", "slope") if metric in metrics]
    return Section("All patients", blocks=[Table("Mean [95 % interval] over patients.", header, rows), *pictures])


def _bars(result: SuiteResult, metric: str) -> Picture:
    label, ideal = _METRICS[metric]
    values = {
        arm: (v[metric].mean, v[metric].low, v[metric].high) for arm, v in result.aggregate.items() if metric in v
    }
    return Picture(figures.bar_figure(values, label, ideal), f"{label}: mean and 95 % interval over patients.")


def _tests(result: SuiteResult) -> Section:
    rows = [
        [
            name,
            interval(test.median_difference, test.low, test.high),
            number(test.p),
            number(test.p_holm),
            str(test.patients),
        ]
        for name, test in result.tests.items()
    ]
    header = ["Comparison", "Median difference [95 % interval]", "p (Wilcoxon)", "p (Holm)", "Patients"]
    return Section("Paired tests", blocks=[Table("Declared before the run; two-sided signed-rank.", header, rows)])


def _per_patient(result: SuiteResult) -> Section:
    metrics = _metric_names(result)
    rows = [
        [patient.patient, case, arm, *(number(values.get(metric)) for metric in metrics)]
        for patient in result.patients
        for case, arms in patient.cases.items()
        for arm, values in arms.items()
    ]
    header = ["Patient", "Case", "Arm", *metrics]
    return Section("Every patient", blocks=[Table("All figures of the result file.", header, rows)])


def _metric_names(result: SuiteResult) -> list[str]:
    names = dict.fromkeys(metric for values in result.aggregate.values() for metric in values)
    return sorted(names, key=lambda name: (list(_METRICS).index(name) if name in _METRICS else len(_METRICS), name))
