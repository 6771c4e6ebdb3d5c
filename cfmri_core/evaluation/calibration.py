"""Learn what the judges of an edit need to know, and write it beside the models.

The support statistics come from the training subjects, the errors of the predictor from subjects held
back, the limits of anatomy and the half-widths of the uncertainty from paired truth of validation
subjects. Nothing may come from subjects that are later evaluated on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cfmri_core.data.studies import SliceSet, Study
from cfmri_core.errors import OtherWeightsError, RequestError
from cfmri_core.evaluation.edit_case import NULL, EditCase, Patient, normalised
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.acceptance import AnatomyLimits, fit_anatomy_limits, write_anatomy_limits
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import DEFAULT_METHOD, AnyEditor, EditRequest
from cfmri_core.pipeline.support import fit_training_support, write_training_support
from cfmri_core.pipeline.trust import EditingModel, fit_predictor_support, write_predictor_support
from cfmri_core.pipeline.uncertainty import (
    PairedEdit,
    UncertaintyCalibration,
    fit_uncertainty,
    read_uncertainty,
    replayed,
    write_uncertainty,
)
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale


@dataclass(frozen=True)
class EditPlan:
    """How the edits are made that a calibration learns from.

    Attributes:
        method: Method of the edits.
        replays: Replays per edit; 1 for a method that has none.
        slices: Slices per volume, those about the one with the most breast tissue; ``None`` for all.
        seed: Seed of the first replay.
    """

    method: str = DEFAULT_METHOD
    replays: int = 4
    slices: int | None = 8
    seed: int = 0


def calibrate_support(
    training: SliceSet, held_back: SliceSet, editors: Sequence[tuple[EditingModel, Path]], predictor: IapPredictor,
    predictor_folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """Write the support statistics of editors and of the predictor.

    Args:
        training: Subjects the models were trained on, at the predictor's image size.
        held_back: Subjects they were not trained on.
        editors: Models that edit and their folders.
        predictor: The predictor as loaded from its folder.
        predictor_folder: Its folder.

    Returns:
        What was learned from how many subjects, JSON-ready.
    """
    support = fit_training_support(training.parameters)
    for editor, folder in editors:
        write_training_support(folder, support, editor.sha256)
    known = fit_predictor_support(training, held_back, predictor)
    write_predictor_support(predictor_folder, known, predictor.sha256)
    return {
        "training_subjects": len(training.parameters),
        "combinations": len(support.cells),
        "image_limits": list(known.image.limits) if known.image else None,
        "held_back_subjects": known.error.subjects if known.error else 0,
        "prediction_limits": dict(known.error.limits) if known.error else {},
    }


def calibrate_edits(
    studies: Sequence[Study],
    editor: AnyEditor,
    folder: Path,
    plan: EditPlan,
    *,
    segmenter: Segmenter | None = None,
    progress: Progress = silent,
) -> tuple[UncertaintyCalibration, AnatomyLimits]:
    """Write the uncertainty of one method, and the limits of the anatomy measures, beside an editor.

    Each study gives one edit; its targets are taken in turn, so that all kinds of targets occur.
    Calibrations of other methods stay, those of other weights go.

    Args:
        studies: Validation subjects with paired renderings and labels; others are left out.
        editor: The editor as loaded from its folder.
        folder: Its folder.
        plan: How to edit.
        segmenter: Measures the tissue; without it that limit stays the default.
        progress: Called after each study.

    Raises:
        RequestError: No study has what is needed.
        CheckpointError: The calibrations in the folder are damaged.
    """
    usable = [study for study in studies if study.labels_path is not None and study.paired]
    if not usable:
        raise RequestError("No study has labels and paired renderings.", "Simulate studies with --paired.")
    others = _known_of_these_weights(folder, editor)
    cases, edits = [], []
    for number, case in enumerate(_one_case_each(usable, plan.slices), start=1):
        cases.append((case.patient.volume, case.second_scan or case.truth))
        edits.append(_paired_edit(case, editor, plan))
        progress(number, len(usable), "calibrating")
    calibration = fit_uncertainty(edits, plan.replays)
    write_uncertainty(folder, {**others, plan.method: calibration}, editor.sha256)
    limits = fit_anatomy_limits(cases, segmenter)
    write_anatomy_limits(folder, limits, editor.sha256)
    return calibration, limits


def _known_of_these_weights(folder: Path, editor: AnyEditor) -> dict[str, UncertaintyCalibration]:
    try:
        return read_uncertainty(folder, editor.sha256)
    except OtherWeightsError:  # the model was trained anew: this is why it is calibrated
        return {}


def _one_case_each(studies: Sequence[Study], slices: int | None) -> Iterator[EditCase]:
    for number, study in enumerate(studies):
        patient = Patient.read(study, slices)
        cases = [EditCase.read(patient, path) for path in study.paired.values()]
        changing = [case for case in cases if case.kind != NULL] or cases
        yield changing[number % len(changing)]


def _paired_edit(case: EditCase, editor: AnyEditor, plan: EditPlan) -> PairedEdit:
    patient = case.patient
    request = EditRequest(changes=case.requested.known(), method=plan.method, seed=plan.seed)
    first = edit_volume(patient.volume, patient.parameters, request, editor).volume

    def edit(seed: int) -> Any:
        if seed == plan.seed:
            return first.voxels
        return edit_volume(patient.volume, patient.parameters, replace(request, seed=seed), editor).volume.voxels

    runs = replayed(edit, range(plan.seed, plan.seed + plan.replays))
    scale = IntensityScale.of(first.voxels)
    deviation = runs.deviation / (scale.high - scale.low)
    return PairedEdit(normalised(patient.volume), normalised(first), deviation, normalised(case.truth), patient.mask)
