"""Suite `trust`: is what should not be believed flagged, and what may be believed not?

Three kinds of cases per simulated patient:

- ``in support``: the scan, and its renderings under protocols as they occur. What the gate flags is a
  false alarm.
- ``out of support``: see `cfmri_core.evaluation.out_of_support`. What it does not flag is missed.
- ``edit``: the scan edited towards each such rendering. How much of the breast the 90 % interval covers, and
  what the acceptance check says of the edit, of the true second scan, and of the unedited source.

``flagged`` is a verdict of outside, ``warned`` one of marginal or outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.evaluation.edit_case import CROSS_VENDOR, EditCase, Patient, normalised
from cfmri_core.evaluation.out_of_support import headers_out_of_support, images_out_of_support
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.pipeline.acceptance import VERDICTS, judge_edit
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import DEFAULT_METHOD, AnyEditor, EditRequest
from cfmri_core.pipeline.support import LEVELS
from cfmri_core.pipeline.trust import Trust, uncertainty_map
from cfmri_core.pipeline.uncertainty import coverage
from cfmri_core.simulation.protocols import DUKE, PRESETS
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

IN_SUPPORT, OUT_OF_SUPPORT, EDIT = "in support", "out of support", "edit"
GATE, SECOND_SCAN, UNEDITED = "gate", "second scan", "unedited source"


@dataclass(frozen=True)
class TrustSuite:
    """Measure the support gate, the acceptance check and the uncertainty of one editing method.

    Attributes:
        trust: What is known of the models.
        editor: The editor.
        method: Method of the edits.
        replays: Replays of each edit.
        seed: Seed of the edits and of what is made up.
        slices: Slices that are edited, those about the one with the most breast tissue; ``None`` for all.
        targets: Targets per patient that are edited towards; 0 leaves edits out.
    """

    trust: Trust
    editor: AnyEditor
    method: str = DEFAULT_METHOD
    replays: int = 4
    seed: int = 0
    slices: int | None = None
    targets: int = 1
    name: str = "trust"
    comparisons: Sequence[Comparison] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Models, method, replays and seed, and what is calibrated."""
        judges, calibration = self.trust.judges, self.trust.uncertainty.get(self.method)
        return {
            "editor_sha256": self.editor.sha256,
            "predictor_sha256": judges.predictor.sha256 if judges.predictor else None,
            "segmenter_sha256": judges.segmenter.sha256 if judges.segmenter else None,
            "method": self.method,
            "replays": self.replays,
            "seed": self.seed,
            "slices": self.slices,
            "targets": self.targets,
            "uncertainty_calibrated_on": calibration.subjects if calibration else 0,
            "has_joint_support": self.trust.acquisition is not None,
            "has_image_support": self.trust.image is not None,
        }

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Judge one patient's scan, what is made of it, and its edits."""
        del with_pictures
        if study.labels_path is None or not study.paired:
            return None
        whole = Patient.read(study)
        read = {name: EditCase.read(whole, folder) for name, folder in study.paired.items()}
        occurring = {name: case for name, case in read.items() if _occurs(case)}
        inside = {"scan": self._gate(whole.volume, whole.parameters)}
        for name, case in occurring.items():
            if case.second_scan is not None:
                inside[name] = self._gate(case.second_scan, case.requested)
        cases: dict[str, dict[str, dict[str, float]]] = {name: {GATE: one} for name, one in inside.items()}
        kinds = dict.fromkeys(cases, IN_SUPPORT)
        for name, one in self._out_of_support(whole).items():
            cases[name], kinds[name] = {GATE: one, name: one}, OUT_OF_SUPPORT
        part = Patient.read(study, self.slices)
        for name in list(occurring)[: self.targets]:
            label = f"edit to {name}"
            cases[label], kinds[label] = self._edit(EditCase.read(part, study.paired[name])), EDIT
        return PatientResult(study.subject_id, cases, kinds=kinds)

    def _gate(self, volume: Volume, header: AcquisitionParameters) -> dict[str, float]:
        support = self.trust.support(volume, header, header)
        found = {"flagged": _share(support.verdict.verdict == LEVELS[2])}
        found["warned"] = _share(support.verdict.verdict != LEVELS[0])
        return found | {f"flagged by {part}": _share(v.verdict == LEVELS[2]) for part, v in support.parts.items()}

    def _out_of_support(self, patient: Patient) -> dict[str, dict[str, float]]:
        images = images_out_of_support(patient.volume, self.seed)
        headers = headers_out_of_support(patient.parameters)
        return {name: self._gate(volume, patient.parameters) for name, volume in images.items()} | {
            name: self._gate(patient.volume, header) for name, header in headers.items()
        }

    def _edit(self, case: EditCase) -> dict[str, dict[str, float]]:
        patient = case.patient
        request = EditRequest(changes=case.requested.known(), method=self.method, seed=self.seed)

        def edit(seed: int) -> Volume:
            return edit_volume(patient.volume, patient.parameters, replace(request, seed=seed), self.editor).volume

        edited = edit_volume(patient.volume, patient.parameters, request, self.editor)
        arms = {self.method: self._accepted(case, edited.volume), UNEDITED: self._accepted(case, patient.volume)}
        if case.second_scan is not None:
            arms[SECOND_SCAN] = self._accepted(case, case.second_scan)
        calibration = self.trust.uncertainty.get(self.method)
        if calibration is not None:
            widths, _ = uncertainty_map(patient.volume, edited, edit, self.replays, calibration)
            arms[self.method] |= _intervals(case, edited.volume, widths)
        return arms

    def _accepted(self, case: EditCase, result: Volume) -> dict[str, float]:
        patient = case.patient
        found = judge_edit(patient.volume, result, patient.parameters, case.requested, self.trust.judges)
        return {
            "accepted": _share(found.verdict == VERDICTS[0]),
            "refused": _share(found.verdict == VERDICTS[2]),
        }


def _occurs(case: EditCase) -> bool:
    """Whether the target's parameters occur together in reality."""
    return case.kind in (CROSS_VENDOR, DUKE) or case.requested in PRESETS.values()


def _intervals(case: EditCase, result: Volume, widths: Volume) -> dict[str, float]:
    """Coverage inside the breast, mean half-width, and its correlation with the true error; normalised units."""
    scale, mask = IntensityScale.of(result.voxels), case.patient.mask
    half = widths.voxels.astype(np.float64) / (scale.high - scale.low)
    made, truth = normalised(result), normalised(case.truth)
    errors = np.abs(made - truth)[mask]
    return {
        "coverage": coverage(half, made, truth, mask),
        "mean_half_width": float(half[mask].mean()),
        "width_error_correlation": float(np.corrcoef(half[mask], errors)[0, 1]),
    }


def _share(is_so: bool) -> float:
    return float(is_so)
