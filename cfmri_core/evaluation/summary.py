"""Compose EVALUATION.md from the result files: tables in the form of the paper's, its figures beside ours.

Whatever result files there are is shown; none is needed. Every figure comes from a file, none is typed here but the
published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cfmri_core.evaluation.edit_page import edit_section
from cfmri_core.evaluation.markdown import NOTHING, interval_text, markdown_table, p_text
from cfmri_core.evaluation.result_file import ResultFile, read_results
from cfmri_core.evaluation.segmentation_tables import PAPER_DICE
from cfmri_core.evaluation.speed_tables import speed_section

_HEAD = """# Evaluation

Made by `make evaluation-page` from the files in [results](results); every figure is in one of them, with each patient's
own (of the studies of many trainings only means: their runs are in the folder of the study, one file each). How to make
those again stands at the end. Means over patients with 95 % bootstrap interval; the patients are simulated, and no
model was trained or tuned on them.
"""

_CAUTIONS = """## What may be compared, and what not

- **Our arms with each other**: yes. Same patients, same truth, same units, and every arm that was run is shown.
- **Ours with the paper's figures**: only as the same quantity on another task. Theirs are of Duke-Breast-Cancer-MRI
  patients, single slices, another network; ours are of simulated patients, volumes, small networks. Where a table
  has a column *paper*, read it as what is usual, not as what was beaten.
- **`paper` with the paper**: the arm runs the published loop on our network, not the authors' network on their data.
- **Unpaired with pairs**: what learned from simulated pairs has seen what no hospital has, and the truth comes from the
  same simulator. The two are always told apart.
- **FID and MMD** of the paper's Table 4 are left out: there they compare edited images with their own sources, so that
  doing nothing scores best.
- A simulator is not patients. No clinical claim follows from anything here.
"""


def evaluation_page(results: Path) -> str:
    """Return the page as Markdown.

    Args:
        results: Folder of result files.

    Raises:
        RequestError: A file is damaged, or there is none.
    """
    files = read_results(results)
    sections = [_HEAD, _CAUTIONS]
    for suite, section in _SECTIONS.items():
        of_suite = sorted((file for file in files if file.suite == suite), key=lambda file: (len(file.name), file.name))
        if of_suite:
            sections.append(section(of_suite))
    sections.append(_origin(files))
    return "\n".join(sections)


def _iap(files: Sequence[ResultFile]) -> str:
    lines = ["## Reading the acquisition parameters from an image (the paper's Table 1)", ""]
    for file in files:
        lines += [f"n = {file.patients} patients.", "", *file.own_tables()]
    return "\n".join(lines)


#: Columns of the table of segmentations: heading, metric, factor, digits.
_DICE_COLUMNS = (
    ("Dice fat", "fat dice", 1, 3),
    ("Dice FGT", "fibroglandular dice", 1, 3),
    ("Mean Dice", "mean dice", 1, 3),
    ("HD95 FGT, mm", "fibroglandular hd95_mm", 1, 1),
    ("FGT volume error, %", "fibroglandular volume_error_percent", 1, 1),
)


def _augmentation(files: Sequence[ResultFile]) -> str:
    lines = ["## Segmentation under another manufacturer (the paper's Table 3)", ""]
    for file in files:
        header = ["Training", "Test", "Arm", *(column[0] for column in _DICE_COLUMNS), "paper: fat / FGT / mean"]
        rows = [_dice_row(cell) for cell in file.content["table"]]
        lines += [f"n = {file.patients} patients.", "", *markdown_table(header, rows), ""]
        for key, title in (
            ("primary_comparisons", "Primary comparison, out of domain, mean Dice"),
            ("secondary_comparisons", "Other comparisons, out of domain, mean Dice"),
            ("in_domain_differences", "In domain, mean Dice"),
        ):
            effects = file.content.get(key, {})
            body = [
                [
                    name,
                    interval_text(effect["mean_difference"], 4),
                    p_text(effect["test"]["p"]),
                    p_text(effect["test"]["p_holm"]),
                ]
                for name, effect in effects.items()
            ]
            if body:
                table = markdown_table(["Comparison", "Mean difference", "p (Wilcoxon)", "p (Holm)"], body)
                lines += [f"### {title}", "", *table, ""]
        gaps = [[name, interval_text(share, 0, 100)] for name, share in file.content.get("gap_closed", {}).items()]
        if gaps:
            lines += ["### Share of the gap to training on both manufacturers closed, %", ""]
            lines += [*markdown_table(["Training and arm", "Share"], gaps), ""]
    return "\n".join(lines)


def _dice_row(cell: Mapping[str, Any]) -> list[str]:
    paper = PAPER_DICE.get((cell["direction"], cell["arm"], cell["test"]))
    figures = [
        interval_text(cell["metrics"].get(metric), digits, factor) for _, metric, factor, digits in _DICE_COLUMNS
    ]
    published = " / ".join(f"{value:.3f}" for value in paper) if paper else NOTHING
    return [cell["direction"], cell["test"], cell["arm"], *figures, published]


def _plain(title: str, note: str) -> Callable[[Sequence[ResultFile]], str]:
    def section(files: Sequence[ResultFile]) -> str:
        lines = [f"## {title}", "", note, ""]
        for file in files:
            for kind, arms in file.aggregate.items():
                metrics = list(dict.fromkeys(metric for found in arms.values() for metric in found))
                rows = [
                    [arm, *(interval_text(found.get(metric), 3) for metric in metrics)] for arm, found in arms.items()
                ]
                lines += [f"{kind[0].upper()}{kind[1:]} (n = {file.patients}):", ""]
                lines += [*markdown_table(["Arm", *metrics], rows), ""]
            lines += file.own_tables()
        return "\n".join(lines)

    return section


#: What was measured, by result file of the study of active learning.
_RULES = {
    "active-learning": "`counterfactual_disagreement` as it is: remoteness of the acquisition, weighted by the rank of "
    "the disagreement.",
    "active-learning-unweighted": "An earlier rule, on other patients: `counterfactual_disagreement` was the "
    "disagreement alone, shared among like cases of one round. It was given up for what this table shows.",
}


def _active_learning(files: Sequence[ResultFile]) -> str:
    lines = ["## Active learning: labels saved", ""]
    lines += ["A segmenter is trained anew at each number of labelled cases that a strategy chose.", ""]
    for file in files:
        lines += [_RULES.get(file.name, f"results/{file.name}.json:"), "", f"n = {file.patients} patients.", ""]
        lines += file.own_tables()
    return "\n".join(lines)


def _structure(files: Sequence[ResultFile]) -> str:
    lines = ["## More or less fibroglandular tissue (Seg-CFT, Reg-CFT and their baselines)", ""]
    for file in files:
        slices = file.content.get("settings", {}).get("slices")
        part = f", the {slices} slices about the one with the most tissue" if slices else ""
        lines += [f"n = {file.patients} patients{part}.", "", *file.own_tables()]
    return "\n".join(lines)


#: Section by suite, in the order of the page.
_SECTIONS: Mapping[str, Callable[[Sequence[ResultFile]], str]] = {
    "edit": edit_section,
    "iap": _iap,
    "augmentation": _augmentation,
    "trust": _plain(
        "Trust: support gate, acceptance check, uncertainty",
        "*flagged* in support is a false alarm, out of support it is wanted. *coverage*: share of the breast's voxels "
        "whose truth lies in the 90 % interval.",
    ),
    "active-learning": _active_learning,
    "structure": _structure,
    "lesion": _plain(
        "Lesions inserted and removed (after MedEdit)",
        "Each patient's own lesion put into the scan without it, by mask or box, and taken out of the scan with it; "
        "contrast-enhanced renderings. A lesion segmenter trained on other patients gives *dice*, *found*, "
        "*volume_ratio*, *nothing_found* and *residual_probability*; *real lesion* is what it finds of real ones. "
        "*outside_max*: largest difference outside the region that a method may change, in stored units. *collateral*: "
        "mean difference in the breast away from the lesion, in percent of the range. *contrast*: in the same percent.",
    ),
    "lesion-study": _plain(
        "Training with inserted lesions",
        "Does a lesion segmenter that is trained on few real lesions gain by lesions that the editor inserts? What the "
        "editor learned elsewhere, from other lesions than these few, is what is brought in.",
    ),
    "segmentation": _plain("The shipped segmenter", "Dice with the true labels."),
    "speed": speed_section,
}


def _origin(files: Sequence[ResultFile]) -> str:
    lines = ["## How each was made", ""]
    for file in files:
        made, settings = file.content.get("provenance", {}), file.content.get("settings", {})
        facts = {key: made.get(key) for key in ("command", "git commit", "packages", "machine")}
        facts["seed"] = settings.get("seed")
        facts["patients"] = file.content.get("n_patients")
        told = "; ".join(f"{key} {_told(key, value)}" for key, value in facts.items() if value is not None)
        lines.append(f"- [results/{file.name}.json](results/{file.name}.json): {told}.")
    return "\n".join([*lines, ""])


def _told(key: str, value: object) -> str:
    return f"`{value}`" if key == "command" else str(value)
