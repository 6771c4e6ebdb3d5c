"""Stress test: how a segmenter's agreement with the true labels moves when one parameter is changed counterfactually.

The scan is real (or simulated) and its labels stay true, because only the acquisition changes. What is
found is about the segmenter as far as the editor can be trusted, and one parameter alone may lead to
combinations that no scanner offers: a drop is a reason to look, not a measurement on another scanner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import RequestError
from cfmri_core.evaluation import figures
from cfmri_core.evaluation.segmentation_suite import tissue_agreement
from cfmri_core.evaluation.statistics import Interval, mean_interval
from cfmri_core.evaluation.suite import Comparison, PatientResult, patient_table
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.io.scan import read_scan
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import DEFAULT_METHOD, AnyEditor, EditRequest
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.protocols import CELLS
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

#: Parameters that are changed, one at a time.
PARAMETERS = (
    "echo_time_ms", "repetition_time_ms", "flip_angle_deg", "slice_thickness_mm", "field_strength_t",
    "manufacturer_model",
)  # fmt: skip
AS_SCANNED = "as scanned"
#: What drops are measured in.
METRIC = "mean dice"
_MAKER = {cell.manufacturer_model: cell.manufacturer for cell in CELLS}
_WINDOW = (0.0, 1.2)

Value = str | float


@dataclass(frozen=True)
class StressTest:
    """A suite whose cases are parameters and whose arms are their values.

    Attributes:
        segmenter: What is tested.
        editor: Changes the parameters.
        values: Parameter to the values it is given, see `values_to_test`.
        method: How the editor is used.
        seed: Seed of the edits.
        progress: Called after each edit of a patient.
    """

    segmenter: Segmenter
    editor: AnyEditor
    values: Mapping[str, Sequence[Value]]
    method: str = DEFAULT_METHOD
    seed: int = 0
    progress: Progress = field(default=silent, compare=False)
    name: str = "stress-test"

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """Every value against the scan as it is."""
        return [
            Comparison(METRIC, arm_name(value), AS_SCANNED, parameter)
            for parameter, values in self.values.items()
            for value in values
        ]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Models, method, values and seed."""
        return {
            "segmenter_sha256": self.segmenter.sha256,
            "editor_sha256": self.editor.sha256,
            "method": self.method,
            "seed": self.seed,
            "values": self.values,
        }

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Segment one patient as scanned and under every value."""
        if study.labels_path is None:
            return None
        scan = read_scan(study.scan_path)
        factual = scan.acquisition.parameters.replaced(study.acquisition.known() if study.acquisition else {})
        truth = read_labels(study, scan.volume)
        patient = _Patient(self, scan.volume, factual, truth)
        cases = {parameter: patient.case(parameter) for parameter in self.values}
        pictures = patient.pictures() if with_pictures else []
        kinds = {parameter: parameter for parameter in cases}
        return PatientResult(study.subject_id, cases, pictures, kinds, score=patient.worst_score)

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """Return the value of each parameter at which the segmenter is worst."""
        rows = [(worst.parameter, worst.value, worst.change, worst.agreement) for worst in worst_values(results)]
        return [
            SummaryTable(
                "worst values",
                f"Of each parameter, the value with the lowest {METRIC}, parameters with the largest drop first. Mean "
                "over patients with 95 % interval; one who was scanned at a value changes by 0 there. The worst of "
                "several values is picked on the same patients, so its drop tends to look too large; see the corrected "
                "tests.",
                ("Parameter", "Worst value", f"Change of {METRIC}", f"{METRIC} there"),
                rows,
            )
        ]


@dataclass(frozen=True)
class Worst:
    """The worst value of a parameter: change of the mean Dice from the scan as it is, and the mean Dice there."""

    parameter: str
    value: str
    change: Interval
    agreement: Interval


def values_to_test(spec: ConditionSpec, parameters: Sequence[str], count: int) -> dict[str, list[Value]]:
    """Return the values to test: ``count`` over the range the editor was trained on, or all categories it knows.

    Raises:
        RequestError: The editor is not conditioned on a parameter.
    """
    values: dict[str, list[Value]] = {}
    for name in parameters:
        if name in spec.categories:
            values[name] = list(spec.categories[name])
        elif name in spec.ranges:
            low, high = spec.ranges[name]
            values[name] = sorted({round(float(value), 4) for value in np.linspace(low, high, count)})
        else:
            accepted = ", ".join([*spec.ranges, *spec.categories])
            raise RequestError(f"The editor cannot change '{name}'.", f"Use one of: {accepted}.")
    return values


def worst_values(results: Sequence[PatientResult]) -> list[Worst]:
    """Return the worst value of each parameter, the parameter with the largest drop first."""
    found = []
    for parameter in dict.fromkeys(case for result in results for case in result.cases):
        table = patient_table(results, parameter)
        scanned = np.array(table[AS_SCANNED][METRIC])
        changes = {
            arm: mean_interval(list(np.array(metrics[METRIC]) - scanned))
            for arm, metrics in table.items()
            if arm != AS_SCANNED
        }
        known = {arm: change for arm, change in changes.items() if math.isfinite(change.mean)}
        if known:
            arm = min(known, key=lambda name: known[name].mean)
            found.append(Worst(parameter, arm, known[arm], mean_interval(table[arm][METRIC])))
    return sorted(found, key=lambda worst: worst.change.mean)


def arm_name(value: Value) -> str:
    """Return how a value is called in results."""
    return value if isinstance(value, str) else f"{value:g}"


class _Patient:
    """One patient while it is tested; remembers the worst edit for the picture."""

    def __init__(self, test: StressTest, volume: Volume, factual: AcquisitionParameters, truth: Volume) -> None:
        self.test, self.volume, self.factual, self.truth = test, volume, factual, truth
        self.labels = segment_volume(volume, test.segmenter)
        self.scanned = tissue_agreement(self.labels, truth)
        self.worst = (AS_SCANNED, volume, self.labels)
        self.worst_score = self.scanned[METRIC]
        self.done = 0

    def case(self, parameter: str) -> dict[str, dict[str, float]]:
        arms = {AS_SCANNED: self.scanned}
        total = sum(len(values) for values in self.test.values.values())
        for value in self.test.values[parameter]:
            arms[arm_name(value)] = self._under(parameter, value)
            self.done += 1
            self.test.progress(self.done, total, f"edits of one patient: {parameter}")
        return arms

    def _under(self, parameter: str, value: Value) -> dict[str, float]:
        if getattr(self.factual, parameter) == value:
            return self.scanned
        changes: dict[str, Value] = {parameter: value}
        if parameter == "manufacturer_model" and value in _MAKER:
            changes["manufacturer"] = _MAKER[str(value)]
        request = EditRequest(changes=changes, method=self.test.method, seed=self.test.seed)
        edited = edit_volume(self.volume, self.factual, request, self.test.editor).volume
        labels = segment_volume(edited, self.test.segmenter)
        agreement = tissue_agreement(labels, self.truth)
        if agreement[METRIC] < self.worst_score:
            self.worst_score, self.worst = agreement[METRIC], (f"{parameter} {arm_name(value)}", edited, labels)
        return agreement

    def pictures(self) -> list[tuple[str, str]]:
        """The slice with most fibroglandular tissue: truth, segmented as scanned, segmented under the worst value."""
        k = int((self.truth.voxels == 2).sum(axis=(0, 1)).argmax())
        name, edited, labels = self.worst
        shown = {
            "true labels": (self.volume, self.truth),
            AS_SCANNED: (self.volume, self.labels),
            name: (edited, labels),
        }
        panels = {
            title: (figures.oriented_slice(_normalised(image), k), figures.oriented_slice(tissue, k))
            for title, (image, tissue) in shown.items()
        }
        caption = f"Slice {k}: fat yellow, fibroglandular tissue pink. The image on the right is SYNTHETIC."
        return [(caption, figures.overlay_figure(panels, _WINDOW))]


def _normalised(volume: Volume) -> Volume:
    return volume.with_voxels(IntensityScale.of(volume.voxels).normalise(volume.voxels))
