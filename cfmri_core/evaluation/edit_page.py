"""The part of EVALUATION.md about editing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfmri_core.evaluation.aims import aim_rows
from cfmri_core.evaluation.markdown import interval_text, markdown_table, p_text
from cfmri_core.evaluation.result_file import Aggregate, ResultFile

#: Columns of the tables of edits: heading, metric, digits.
_EDIT_COLUMNS = (
    ("PSNR, dB", "psnr_db", 1),
    ("PSNR of the change alone, dB", "psnr_noise_free_db", 1),
    ("change recovered", "slope_noise_free", 2),
    ("SSIM", "ssim", 3),
    ("contrast error", "contrast_error", 3),
    ("anatomy", "gradient_to_source_ratio", 3),
    ("z-jitter", "z_jitter_ratio", 2),
    ("there and back, dB", "there_and_back_db", 1),
    ("SSIM to source", "ssim_source", 3),
    ("evaluations a slice", "evaluations_per_slice", 0),
)
_CROSS_VENDOR, _DECORRELATED, _SINGLE = "cross-vendor", "decorrelated", "single "
#: PSNR that 32-bit arithmetic only reaches where two volumes are the same.
_EXACT_DB = 100.0
#: Morão et al., MIDL 2025, Table 4, at their chosen setting (50 steps, guidance scale 3).
_PAPER_SSIM_SOURCE = 0.657

_EDIT_NOTES = """Inside the breast, against the noise-free truth, each volume in its own normalised units (1 is the
range from the 10th to the 99th percentile). *Change recovered*: 0 leaves the source as it is, 1 makes the change asked
for. *PSNR of the change alone*: the change put on the noise-free source, so that the source's noise does not count.
*Contrast error*: of fibroglandular tissue against fat. *Anatomy*: agreement of gradient orientation with the source,
relative to the truth's own. *z-jitter*: spread of the steps from slice to slice, relative to the truth's.
*fast* keeps the source's noise here; unless told otherwise the method scales it, which is the arm *noise scaled*.
*second scan* is the same subject really scanned under the target, the noise ceiling; *exact change* adds the true
change to the noisy source, the best that keeps its noise. *Affine* and *histogram matching* know a population under
exactly the requested parameters.
"""

#: Kinds of cases with a table of their own, and its title.
_KINDS = {
    _CROSS_VENDOR: "To the other manufacturer, every parameter changed",
    _DECORRELATED: "Decorrelated: every parameter drawn on its own",
}
#: Result file of the main one's patients with one parameter changed at a time.
_SINGLE_PARAMETERS = "edit-single"
#: Titles of further result files of suite edit.
_VARIANTS = {
    "edit-shifted": "Another simulator setting, never trained on: coils, noise, looks of the scanners, tissue values",
    "edit-fitted": "The same setting and patients, after `cfmri calibrate scanners` on 160 scans of others there",
    "edit-labels": "Anatomies from published breast label maps, never trained on",
}


def edit_section(files: Sequence[ResultFile]) -> str:
    """Return the section on editing.

    Args:
        files: Results of suite edit, the main one first.
    """
    main = files[0]
    same_patients = [main, *(file for file in files if file.name == _SINGLE_PARAMETERS)]
    others = [file for file in files if file is not main and file.name != _SINGLE_PARAMETERS]
    aggregate: dict[str, dict[str, Mapping[str, Mapping[str, Any]]]] = {}
    for file in same_patients:
        for kind, arms in file.aggregate.items():
            aggregate[kind] = {**arms, **aggregate.get(kind, {})}
    lines = ["## Editing", "", _EDIT_NOTES, *_kind_tables(main)]
    if _CROSS_VENDOR in main.aggregate:
        lines += [f"The paper's SSIM to the source, at its chosen setting (Table 4): {_PAPER_SSIM_SOURCE}.", ""]
    lines += _singles(aggregate)
    aims = aim_rows(aggregate, lambda value: f"{value:.3g}")
    if aims:
        lines += ["### Aims, set before the run", "", *markdown_table(["Aim", "Arm", "Reached", "Met"], aims), ""]
        lines += ["An aim that a *second scan* misses too lies beyond what the judge can tell.", ""]
    lines += [*_tests(main), *main.own_tables()]
    for other in others:
        lines += [f"### {_VARIANTS.get(other.name, other.name)}", "", *_kind_tables(other, "####")]
    return "\n".join(lines)


def _kind_tables(file: ResultFile, heading: str = "###") -> list[str]:
    lines: list[str] = []
    for kind, title in _KINDS.items():
        if kind in file.aggregate:
            lines += [f"{heading} {title} (n = {file.patients})", "", *_edit_table(file, kind), ""]
    return lines


def _edit_table(file: ResultFile, kind: str) -> list[str]:
    arms, families = file.aggregate[kind], file.content.get("settings", {}).get("families", {})
    columns = [column for column in _EDIT_COLUMNS if any(column[1] in metrics for metrics in arms.values())]
    order = sorted((arm for arm in arms if arm != "truth"), key=lambda arm: (families.get(arm, ""), _psnr(arms[arm])))
    rows, family = [], None
    for arm in order:
        if families.get(arm) != family:
            family = families.get(arm)
            rows.append([f"**{family}**", *[""] * len(columns)])
        rows.append([arm, *(_figure(arms[arm].get(metric), metric, digits) for _, metric, digits in columns)])
    return markdown_table(["Arm", *(heading for heading, _, _ in columns)], rows)


def _figure(value: Mapping[str, Any] | None, metric: str, digits: int) -> str:
    """Return a figure; a PSNR that only rounding keeps from infinity is called exact."""
    is_exact = metric.endswith("_db") and value is not None and (value["mean"] or 0.0) > _EXACT_DB
    return "exact" if is_exact else interval_text(value, digits)


def _psnr(metrics: Mapping[str, Mapping[str, Any]]) -> float:
    return float(metrics.get("psnr_db", {}).get("mean") or 0.0)


def _singles(aggregate: Aggregate) -> list[str]:
    kinds = sorted(kind for kind in aggregate if kind.startswith(_SINGLE))
    if not kinds:
        return []
    slopes = {kind: {arm: found.get("slope_noise_free") for arm, found in aggregate[kind].items()} for kind in kinds}
    # An arm with noise of its own has no slope without noise.
    known = {arm for found in slopes.values() for arm, slope in found.items() if slope is not None}
    arms = [arm for arm in aggregate[kinds[0]] if arm in known - {"truth", "source"}]
    rows = [[kind.removeprefix(_SINGLE), *(interval_text(slopes[kind].get(arm), 2) for arm in arms)] for kind in kinds]
    return ["### One parameter alone: change recovered", "", *markdown_table(["Parameter", *arms], rows), ""]


def _tests(file: ResultFile) -> list[str]:
    tests = file.content.get("tests", {})
    if not tests:
        return []
    rows = [
        [
            name,
            interval_text({**test, "mean": test["median_difference"]}, 2),
            p_text(test["p"]),
            p_text(test["p_holm"]),
            str(test["patients"]),
        ]
        for name, test in tests.items()
    ]
    header = ["Comparison", "Median difference", "p (Wilcoxon)", "p (Holm)", "Patients"]
    return ["### Comparisons declared before the run", "", *markdown_table(header, rows), ""]
