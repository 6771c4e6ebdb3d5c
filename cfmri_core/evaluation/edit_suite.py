"""Suite `edit`: how near do edited volumes come to the paired truth, and does the anatomy stay?

For every simulated study with paired renderings, the volume is edited towards each rendering's
parameters by each method and compared with the noise-free truth inside the breast (labels above 0).
Each volume is in its own normalised units, so that gain, which no parameter fixes, does not count.

Arms without learning stand beside the methods: the source as it is; two ways of mapping intensities, see
`cfmri_core.evaluation.classical`; the exact change added to the noisy source, which nothing that keeps the source's
noise can beat; and a second scan, the same subject really scanned under those parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.evaluation.classical import ReferencePopulation, affine_matched, histogram_matched
from cfmri_core.evaluation.edit_case import (
    CROSS_VENDOR,
    NO_NOISE,
    NULL,
    OWN_NOISE,
    SOURCE_NOISE,
    Arm,
    EditCase,
    Patient,
    case_pictures,
    kind_order,
    normalised,
)
from cfmri_core.evaluation.fooling import fooling_score, fooling_table
from cfmri_core.evaluation.suite import Comparison, PatientResult, mean_intervals
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.pipeline.counterfactual import Counterfactual, edit_volume
from cfmri_core.pipeline.method import METHODS, AnyEditor, EditRequest, load_editor
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.simulation.protocols import DECORRELATED
from cfmri_core.volume import Volume

SOURCE, TRUTH, SECOND_SCAN, EXACT_CHANGE = "source", "truth", "second scan", "exact change"
HISTOGRAM, AFFINE = "histogram matching", "affine to tissue means"
PAPER, INVERSION, FAST = "paper", "inversion", "fast"


@dataclass(frozen=True)
class Edit:
    """What an arm asks of `EditRequest`."""

    method: str
    source_noise: str = "keep"


#: Arms that edit. `fast` is the arm that keeps the noise, as the other methods do, so that they can be compared.
EDITS: Mapping[str, Edit] = {
    **{method: Edit(method) for method in METHODS},
    "fast, noise scaled": Edit(FAST, "scale"),
    "fast, noise renewed": Edit(FAST, "renew"),
    "fast, noise removed": Edit(FAST, "remove"),
}
_WHOSE_NOISE = {"keep": SOURCE_NOISE, "scale": OWN_NOISE, "renew": OWN_NOISE, "remove": NO_NOISE}
#: What an arm learned from. What is learned from pairs needs a simulator; scans alone are what a hospital has.
NO_LEARNING, UNPAIRED, PAIRS = "no learning", "learned from unpaired scans", "learned from simulated pairs"
#: Kinds of cases that the published loop is run on; it takes the most time and knows no single parameters.
PAPER_KINDS = (CROSS_VENDOR, DECORRELATED)


@dataclass(frozen=True)
class EditSuite:
    """Compare editing methods with the paired truth.

    Attributes:
        editors: Model by method, see `load_editors`.
        edits: Arms to compare, some of `EDITS`; empty for all that ``editors`` has a model for.
        seed: Seed of every edit.
        kinds: Kinds of cases to evaluate, see `cfmri_core.evaluation.edit_case`; empty for all but the null edit.
        slices: Slices per volume, those about the one with the most breast tissue; ``None`` for all.
        scorer: Predictor that judges whether the parameters asked for are seen, see `scoring_predictor`.

    Raises:
        RequestError: An arm is not known.
    """

    editors: Mapping[str, AnyEditor]
    edits: Sequence[str] = ()
    seed: int = 0
    kinds: Sequence[str] = ()
    slices: int | None = None
    scorer: IapPredictor | None = None
    name: str = "edit"
    comparisons: Sequence[Comparison] = field(default_factory=lambda: primary_comparisons())

    def __post_init__(self) -> None:
        chosen = self.edits or [arm for arm, edit in EDITS.items() if edit.method in self.editors]
        object.__setattr__(self, "edits", tuple(chosen))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Models, arms, seed, cases and what each arm learned from."""
        return {
            "models_sha256": {method: editor.identity for method, editor in self.editors.items()},
            "scoring_predictor_sha256": self.scorer.sha256 if self.scorer else None,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "slices": self.slices,
            "families": {arm: family_of(arm) for arm in (*_ARMS_WITHOUT_LEARNING, *self.edits)},
        }

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """Fooling scores of each kind of cases, if there is a scoring predictor."""
        if self.scorer is None:
            return []
        kinds = dict.fromkeys(kind for result in results for kind in result.kinds.values())
        return [fooling_table(mean_intervals(results, kind), f"fooling: {kind}") for kind in kinds]

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Edit one patient towards each paired target."""
        if study.labels_path is None or not study.paired:
            return None
        patient = Patient.read(study, self.slices)
        cases: dict[str, dict[str, dict[str, float]]] = {}
        kinds: dict[str, str] = {}
        pictures: list[tuple[str, str]] = []
        read = {name: EditCase.read(patient, folder) for name, folder in study.paired.items()}
        wanted = {name: case for name, case in read.items() if self._wants(case.kind)}
        for name, case in sorted(wanted.items(), key=lambda item: kind_order(item[1].kind)):
            arms = {**_without_learning(case), **self._edited(case)}
            kinds[name], cases[name] = case.kind, self._measured(case, arms)
            if with_pictures and (not pictures or case.kind == CROSS_VENDOR):
                shown = {arm: arms[arm].voxels for arm in self.edits if arm in arms}
                pictures = case_pictures(case, shown)
        if not cases:
            return None
        return PatientResult(study.subject_id, cases, pictures, kinds, _score(cases, kinds, self.edits))

    def _wants(self, kind: str) -> bool:
        return kind in self.kinds if self.kinds else kind != NULL

    def _measured(self, case: EditCase, arms: Mapping[str, Arm]) -> dict[str, dict[str, float]]:
        found = {name: case.measured(arm) for name, arm in arms.items()}
        if self.scorer is not None:
            seen = {name: predict_acquisition(arm.volume, self.scorer) for name, arm in arms.items()}
            ranges = self.scorer.spec.ranges
            for name, after in seen.items():
                found[name] |= fooling_score(seen[SOURCE], after, case.patient.parameters, case.requested, ranges)
        return found

    def _edited(self, case: EditCase) -> dict[str, Arm]:
        """Result, cost and way back of each arm that edits."""
        arms = {}
        for name in self.edits:
            if name == PAPER and case.kind not in PAPER_KINDS:
                continue
            # An editor that looks at neighbouring slices gets them all, there and back.
            sees_neighbours = self.editors[EDITS[name].method].reach > 0
            source = case.patient.whole if sees_neighbours else case.patient.volume
            measured = case.patient.measured_slices if sees_neighbours else _as_it_is
            started = time.monotonic()
            result = self._edit(name, source, case.patient.parameters, case.requested)
            extra = {
                "evaluations_per_slice": float(result.evidence["network_evaluations_per_slice"]),
                "elapsed_s": time.monotonic() - started,
            }
            if case.kind == CROSS_VENDOR:
                returned = self._edit(name, result.volume, result.requested, case.patient.parameters)
                extra |= case.round_trip(normalised(measured(returned.volume)))
            arms[name] = Arm(measured(result.volume), _WHOSE_NOISE[EDITS[name].source_noise], extra=extra)
        return arms

    def _edit(
        self, arm: str, volume: Volume, factual: AcquisitionParameters, requested: AcquisitionParameters
    ) -> Counterfactual:
        request = EditRequest(
            changes=requested.known(), seed=self.seed, method=EDITS[arm].method, source_noise=EDITS[arm].source_noise
        )
        return edit_volume(volume, factual, request, self.editors[EDITS[arm].method])


def load_editors(edits: Sequence[str] = (), root: Path | None = None, device: str = "cpu") -> dict[str, AnyEditor]:
    """Load the models that arms need.

    Args:
        edits: Some of `EDITS`; empty for all there is a model for.
        root: See `cfmri_core.models.model_folder.locate_model`.
        device: Torch device.

    Raises:
        RequestError: An arm is not known.
        CheckpointError: There is no model for an arm, or for none.
    """
    for arm in edits:
        if arm not in EDITS:
            raise RequestError(f"'{arm}' is not a method.", f"Use one of: {', '.join(EDITS)}.")
    loaded: dict[str, AnyEditor] = {}
    for method in dict.fromkeys(EDITS[arm].method for arm in edits or EDITS):
        same = [known for known in loaded if METHODS[known].model == METHODS[method].model]
        try:
            loaded[method] = loaded[same[0]] if same else load_editor(method, root, device)
        except CheckpointError:
            if edits or method == INVERSION:
                raise
    return loaded


def primary_comparisons() -> tuple[Comparison, ...]:
    """Return the paired tests that are declared before any run: one family."""
    duels = (
        (INVERSION, SOURCE),
        (INVERSION, PAPER),
        (INVERSION, AFFINE),
        (FAST, SOURCE),
        (FAST, AFFINE),
        (FAST, INVERSION),
    )
    return (
        *(Comparison(metric, *duel, CROSS_VENDOR) for metric in ("psnr_db", "slope_noise_free") for duel in duels),
        *(Comparison("slope_noise_free", *duel, DECORRELATED) for duel in ((INVERSION, PAPER), (FAST, INVERSION))),
    )


def family_of(arm: str) -> str:
    """Return what an arm learned from."""
    if arm in _ARMS_WITHOUT_LEARNING:
        return NO_LEARNING
    return PAIRS if METHODS[EDITS[arm].method].model == "direct_editor" else UNPAIRED


_ARMS_WITHOUT_LEARNING = (SOURCE, HISTOGRAM, AFFINE, EXACT_CHANGE, SECOND_SCAN, TRUTH)


def _without_learning(case: EditCase) -> dict[str, Arm]:
    source = normalised(case.patient.volume)
    arms = {SOURCE: Arm(case.patient.volume), TRUTH: Arm(case.truth, NO_NOISE)}
    if case.second_scan is not None:
        arms[SECOND_SCAN] = Arm(case.second_scan, OWN_NOISE)
    population = _population(case.setting)
    factual, requested = (population.under(parameters) for parameters in (case.patient.parameters, case.requested))
    mapped = {
        HISTOGRAM: histogram_matched(source, requested.landmarks),
        AFFINE: affine_matched(source, factual.means, requested.means),
    }
    if case.patient.clean is not None:
        mapped[EXACT_CHANGE] = source + normalised(case.truth) - normalised(case.patient.clean)
    return arms | {name: Arm(case.truth.with_voxels(voxels), is_normalised=True) for name, voxels in mapped.items()}


@cache
def _population(setting: str) -> ReferencePopulation:
    return ReferencePopulation(setting)


def _as_it_is(volume: Volume) -> Volume:
    return volume


def _score(
    cases: Mapping[str, Mapping[str, Mapping[str, float]]], kinds: Mapping[str, str], edits: Sequence[str]
) -> float:
    """PSNR of the best method on the worst cross-vendor case, or any case: decides which patients are pictured."""
    names = [name for name, kind in kinds.items() if kind == CROSS_VENDOR] or list(cases)
    found = [[cases[name][arm]["psnr_db"] for arm in edits if arm in cases[name]] for name in names]
    return min((max(of_case) for of_case in found if of_case), default=math.nan)
