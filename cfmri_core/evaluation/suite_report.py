"""The HTML report of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cfmri_core.evaluation import figures
from cfmri_core.evaluation.report import Picture, Report, Section, Table, interval, number
from cfmri_core.evaluation.statistics import Interval
from cfmri_core.evaluation.suite import ALL_CASES, SuiteResult
from cfmri_core.io.json_text import json_text

#: What each metric means, and its value in a perfect result.
METRICS: Mapping[str, tuple[str, float | None]] = {
    "psnr_db": ("PSNR to the truth in the breast (dB)", None),
    "slope_noise_free": ("Change recovered (0 nothing, 1 all of it)", 1.0),
    "psnr_noise_free_db": ("PSNR of the change alone, put on the noise-free source (dB)", None),
    "slope": ("Change recovered, the source's noise counted as change", 1.0),
    "ssim": ("SSIM to the truth in the breast", 1.0),
    "excess_rmse": ("Error beyond the noise ceiling", 0.0),
    "contrast_error": ("Error of fibroglandular-fat contrast", 0.0),
    "gradient_agreement": ("Gradient-orientation agreement with the truth", 1.0),
    "gradient_to_source": ("Gradient-orientation agreement with the source", None),
    "gradient_to_source_ratio": ("The same relative to the truth's", 1.0),
    "gradient_to_clean_ratio": ("The same with the noise-free source", 1.0),
    "ssim_source": ("SSIM to the source", None),
    "z_jitter_ratio": ("Slice-to-slice jitter relative to the truth's", 1.0),
    "slice_gain_jitter": ("Slice-to-slice gain jitter", 0.0),
    "there_and_back_db": ("There and back: PSNR to the source (dB)", None),
    "there_and_back_to_clean_db": ("There and back: PSNR to the noise-free source (dB)", None),
    "dice": ("Dice of the found with the asked lesion", 1.0),
    "found": ("Share in which a lesion is found", 1.0),
    "nothing_found": ("Share in which no lesion is found", 1.0),
    "residual_probability": ("Largest probability of a lesion where it was", 0.0),
    "outside_max": ("Largest difference outside the region, stored units", 0.0),
    "collateral": ("Mean difference away from the lesion (% of the range)", 0.0),
    "boundary_gradient_ratio": ("Gradient at the region's border, of the true scan's", 1.0),
    "volume_ratio": ("Found volume per asked volume", 1.0),
    "contrast": ("Contrast of the lesion (% of the range)", None),
    "elapsed_s": ("Seconds per volume", None),
    "evaluations_per_slice": ("Network evaluations per slice", None),
}


def suite_report(result: SuiteResult, provenance: Mapping[str, str]) -> Report:
    """Compose the report of one suite: sums, tests, pictures of some patients, every patient's figures."""
    sections = [table.section() for table in result.tables]
    sections += [_summary(result, kind) for kind in result.aggregate]
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
        "(BCa, 10,000 resamples of patients). Pictured are the patients with the worst results. A simulator is not "
        "patients: no clinical claim follows.",
        sections,
        {**provenance, **settings},
    )


def _summary(result: SuiteResult, kind: str) -> Section:
    aggregate = result.aggregate[kind]
    metrics = _metric_names(aggregate)
    families = result.settings.get("families", {})
    header = ["Arm", *(METRICS.get(metric, (metric, None))[0] for metric in metrics)]
    rows = []
    for arm in sorted(aggregate, key=lambda arm: (list(families).index(arm) if arm in families else -1, arm)):
        values = aggregate[arm]
        cells = [interval(v.mean, v.low, v.high) if (v := values.get(metric)) else number(None) for metric in metrics]
        rows.append([f"{arm} ({families[arm]})" if arm in families else arm, *cells])
    slope = "slope_noise_free" if "slope_noise_free" in metrics else "slope"
    pictures = [_bars(aggregate, metric) for metric in ("psnr_db", slope) if metric in metrics]
    title = "All patients" if kind == ALL_CASES else f"All patients: {kind}"
    return Section(title, blocks=[Table("Mean [95 % interval] over patients.", header, rows), *pictures])


def _bars(aggregate: Mapping[str, Mapping[str, Interval]], metric: str) -> Picture:
    label, ideal = METRICS[metric]
    values = {arm: (v[metric].mean, v[metric].low, v[metric].high) for arm, v in aggregate.items() if metric in v}
    values = {arm: value for arm, value in values.items() if not math.isnan(value[0])}
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
    metrics = list(dict.fromkeys(name for found in result.aggregate.values() for name in _metric_names(found)))
    rows = [
        [patient.patient, case, arm, *(number(values.get(metric)) for metric in metrics)]
        for patient in result.patients
        for case, arms in patient.cases.items()
        for arm, values in arms.items()
    ]
    header = ["Patient", "Case", "Arm", *metrics]
    return Section("Every patient", blocks=[Table("All figures of the result file.", header, rows)])


def _metric_names(aggregate: Mapping[str, Mapping[str, Interval]]) -> list[str]:
    names = dict.fromkeys(metric for values in aggregate.values() for metric in values)
    return sorted(names, key=lambda name: (list(METRICS).index(name) if name in METRICS else len(METRICS), name))
