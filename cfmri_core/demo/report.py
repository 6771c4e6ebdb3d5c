"""The report of the demo: what was asked, what came out, and how near it is to the paired truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.demo.run import MODELS, TRAINING, Patient
from cfmri_core.demo.studies import TRAINING_MANUFACTURER, TRAINING_PATIENTS
from cfmri_core.errors import RemoteError
from cfmri_core.evaluation import figures
from cfmri_core.evaluation.edit_case import UNIT, WINDOW, compared, normalised
from cfmri_core.evaluation.origin import provenance
from cfmri_core.evaluation.report import Notes, Picture, Report, Section, Table, number, parameter_table
from cfmri_core.evaluation.segmentation_suite import tissue_dice
from cfmri_core.volume import Volume

_LIMITS = (
    "Simulated breasts, not patients: signal physics after published equations and tissue values; anatomy, noise "
    "level, coil and reconstruction of each scanner model are invented. No clinical claim follows.",
    "The small models shipped for this demo were trained on other simulated subjects only.",
    "All images are shown and measured in normalised intensity: each volume scaled so that its 10th percentile is 0 "
    "and its 99th is 1, because the absolute gain of a scanner follows from no acquisition parameter.",
    "The truth is the same anatomy rendered under the requested parameters without noise; the source carries noise.",
)
_FEW_SCANS = (
    "A handful of scans shows that retraining works, not that it helps: overlap may fall as well as rise. Judge a "
    "segmenter by 'cfmri evaluate --suite segmentation' on many patients."
)


def demo_report(
    patients: Sequence[Patient], training: dict[str, Any], anatomy: Sequence[Section], elapsed_s: float
) -> Report:
    """Compose the report from what the server returned; ``anatomy`` are the sections about edits of anatomy."""
    sections = [Section("In short", blocks=[_overview(patients)]), *(_patient_section(patient) for patient in patients)]
    sections += [
        _retraining_section(patients, training),
        *anatomy,
        Section("What this is not", blocks=[Notes(_LIMITS)]),
    ]
    return Report(
        "Counterfactual MRI, the main job end to end",
        f"{len(patients)} simulated patients that no model was trained on. Through the MONAI Label server over HTTP, "
        "as the 3D Slicer module does it: acquisition parameters predicted, the counterfactual volume generated, "
        "tissue segmented, the segmenter retrained with counterfactual augmentation, and tissue segmented again; then "
        "anatomy edited.",
        sections,
        {
            **provenance(),
            "editor sha256": str(patients[0].evidence["model"]["sha256"]),
            "method": f"{patients[0].evidence['method']}, seed {patients[0].evidence['seed']}",
            "models used": ", ".join(MODELS),
            "duration": f"{elapsed_s:.0f} s, without installation",
        },
    )


def _overview(patients: Sequence[Patient]) -> Table:
    rows = []
    for patient in patients:
        for name, values in _measured(patient).items():
            rows.append(
                [patient.name, name, *(number(values[key]) for key in ("psnr_db", "slope", "gradient_agreement"))]
            )
    header = ["Patient", "Image", "PSNR to the truth (dB)", "Change recovered", "Gradient agreement with the truth"]
    return Table(
        "Measured inside the breast. Change recovered: 0 leaves the source as it is, 1 is the truth.", header, rows
    )


def _measured(patient: Patient) -> dict[str, dict[str, float]]:
    mask = np.asarray(patient.labels.voxels > 0)
    source, truth = normalised(patient.scan.volume), normalised(patient.truth)
    edited = normalised(_counterfactual(patient))
    return {
        "source, unedited": compared(source, source, truth, mask),
        "counterfactual": compared(edited, source, truth, mask),
    }


def _patient_section(patient: Patient) -> Section:
    factual = patient.scan.acquisition.parameters
    changed = list(factual.differences(patient.requested))
    measured = _measured(patient)
    before, after = (measured[name]["psnr_db"] for name in ("source, unedited", "counterfactual"))
    paragraph = (
        f"Acquired on {factual.manufacturer_model} at {factual.field_strength_t:g} T; asked for "
        f"{patient.requested.manufacturer_model} at {patient.requested.field_strength_t:g} T. PSNR to the paired truth "
        f"{before:.1f} dB for the source and {after:.1f} dB for the counterfactual; "
        f"{measured['counterfactual']['slope']:.0%} of the change was recovered. "
        f"{patient.evidence['network_evaluations_per_slice']} network evaluations per slice, "
        f"{patient.evidence['elapsed_s']:.0f} s for the volume."
    )
    columns: dict[str, Mapping[str, object] | AcquisitionParameters] = {
        "Factual (header)": factual,
        "Predicted from the source": _values(patient.predicted["source"]),
        "Requested": patient.requested,
        "Predicted from the counterfactual": _values(patient.predicted["counterfactual"]),
    }
    table = parameter_table("Acquisition parameters; emphasised: to be changed.", columns, changed)
    warnings = patient.evidence.get("warnings") or []
    return Section(
        f"Patient {patient.name}", [paragraph], [table, *_pictures(patient), *([Notes(warnings)] if warnings else [])]
    )


def _pictures(patient: Patient) -> list[Picture]:
    k = _shown_slice(patient)
    source, truth = normalised(patient.scan.volume), normalised(patient.truth)
    edited = normalised(_counterfactual(patient))
    mask = patient.labels.voxels > 0
    affine = patient.scan.volume.affine
    differences = {
        "counterfactual \N{MINUS SIGN} source": edited - source,
        "truth \N{MINUS SIGN} source": truth - source,
        "counterfactual \N{MINUS SIGN} truth": edited - truth,
    }
    limit = figures.difference_limit([difference[mask] for difference in differences.values()])
    shown = {"source": source, "counterfactual (synthetic)": edited, "paired truth": truth}
    return [
        Picture(
            figures.comparison_figure({name: _slice(v, affine, k) for name, v in shown.items()}, WINDOW, UNIT),
            f"Slice {k}, one grey window for all three.",
        ),
        Picture(
            figures.difference_figure({name: _slice(v, affine, k) for name, v in differences.items()}, limit, UNIT),
            "Signed differences in one scale: the change made, the change asked for, and what is still wrong. "
            "Red is brighter. The first two should look alike, the third pale.",
        ),
    ]


def _retraining_section(patients: Sequence[Patient], training: dict[str, Any]) -> Section:
    rows = []
    blocks: list[Picture | Table | Notes] = []
    for patient in patients:
        for image in ("source", "counterfactual"):
            before, after = (
                tissue_dice(patient.segmented[image, when], patient.labels) for when in ("before", "after")
            )
            rows += [[patient.name, image, name, number(before[name]), number(after[name])] for name in before]
        blocks.append(_overlay(patient))
    header = ["Patient", "Image", "Overlap", "Before retraining", "After retraining"]
    table = Table("Dice overlap with the true labels, 1 is perfect.", header, rows)
    paragraph = (
        f"Retrained by POST /train/tissue_segmenter with {TRAINING}, on {TRAINING_PATIENTS} labelled scans of "
        f"{TRAINING_MANUFACTURER}, each of them also as other scanners would have shown it; "
        f"{training.get('epochs')} epochs, last loss {number(training.get('loss'))}. "
        f"The test patients were not among them. The server: {training.get('message')}"
    )
    changes = Notes([_overlap_change(patients, image) for image in ("source", "counterfactual")])
    return Section("Segmentation before and after retraining", [paragraph, _FEW_SCANS], [changes, table, *blocks])


def _overlap_change(patients: Sequence[Patient], image: str) -> str:
    """Say in words how the overlap moved on one kind of image, better or worse."""
    sentences = []
    for patient in patients:
        before, after = (
            tissue_dice(patient.segmented[image, when], patient.labels)["fibroglandular dice"]
            for when in ("before", "after")
        )
        scanner = patient.scan.acquisition.parameters if image == "source" else patient.requested
        direction = "up" if after > before else "down"
        sentences.append(f"{patient.name} ({scanner.manufacturer}) {direction} from {before:.3f} to {after:.3f}")
    return f"Fibroglandular overlap on the {image} images: {'; '.join(sentences)}."


def _overlay(patient: Patient) -> Picture:
    k = _shown_slice(patient)
    affine = patient.scan.volume.affine
    image = _slice(normalised(patient.scan.volume), affine, k)
    panels = {
        "true labels": (image, figures.oriented_slice(patient.labels, k)),
        "before retraining": (image, figures.oriented_slice(patient.segmented["source", "before"], k)),
        "after retraining": (image, figures.oriented_slice(patient.segmented["source", "after"], k)),
    }
    caption = f"Patient {patient.name}, source scan, slice {k}. Yellow: fat. Pink: fibroglandular tissue."
    return Picture(figures.overlay_figure(panels, WINDOW), caption)


def _values(predicted: dict[str, Any]) -> dict[str, object]:
    return {name: prediction["value"] for name, prediction in predicted.items()}


def _slice(voxels: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], k: int) -> figures.Slice:
    return figures.oriented_slice(Volume(voxels, affine), k)


def _shown_slice(patient: Patient) -> int:
    """The slice with the most fibroglandular tissue."""
    return int((patient.labels.voxels == 2).sum(axis=(0, 1)).argmax())


def _counterfactual(patient: Patient) -> Volume:
    if patient.counterfactual is None:
        raise RemoteError(f"There is no counterfactual of {patient.name}.")
    return patient.counterfactual
