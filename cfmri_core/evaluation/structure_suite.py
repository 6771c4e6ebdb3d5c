"""Suite `structure`: is the fibroglandular share that is obtained the one that was asked for, and does the rest stay?

For every simulated study with renderings of changed shares, each method asks for the same relative change. A second
segmenter, of another architecture and trained on other patients than the editor's own, says what was obtained: its
share after the edit over its share before, against the change that was asked for. The simulator's own rendering of the
changed anatomy stands beside the methods as the floor of that instrument.

`one edit` in the name of an arm: the condition is what was asked for. Without it, the edit was made to come nearer by
what the *editor's own* segmenter found in the result, as users get it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cfmri_core
from cfmri_core.data.studies import Study
from cfmri_core.errors import CheckpointError
from cfmri_core.evaluation.morphology import grown_or_shrunk
from cfmri_core.evaluation.structure_case import StructureCase, StructurePatient
from cfmri_core.evaluation.structure_pictures import case_pictures
from cfmri_core.evaluation.structure_tables import RENDERING, structure_tables
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import BASE, REG_CFT, SEG_CFT, StructureEditor
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.pipeline.structure import StructureRequest, edit_structure
from cfmri_core.pipeline.structure_images import GUIDANCE
from cfmri_core.simulation.protocols import SHARE
from cfmri_core.volume import Volume

ONE_EDIT = ", one edit"
SOURCE, MORPHOLOGY, UNTUNED = "source", "morphology", "not fine-tuned"
#: Arms that run the editor: method, and whether the condition is corrected.
EDITS: Mapping[str, tuple[str, bool]] = {
    SEG_CFT: (SEG_CFT, True),
    REG_CFT: (REG_CFT, True),
    GUIDANCE: (GUIDANCE, True),
    UNTUNED: (BASE, True),
    SEG_CFT + ONE_EDIT: (SEG_CFT, False),
    REG_CFT + ONE_EDIT: (REG_CFT, False),
}
#: Cases that the paired tests are about, and arms that are run in no others, because they take longest.
PRIMARY = "20 %"
PRIMARY_ONLY = (GUIDANCE, UNTUNED)


@dataclass(frozen=True)
class StructureSuite:
    """Edit the share of each patient up and down by every method.

    Attributes:
        editor: Editor under test.
        judge: Segmenter that scores, see `scoring_segmenter`.
        seed: Seed of every edit.
        kinds: Only these kinds of cases, e.g. ``20 %``; empty means all.
        slices: Slices of the middle of each volume; ``None`` means all.
    """

    editor: StructureEditor
    judge: Segmenter
    seed: int = 0
    kinds: Sequence[str] = ()
    slices: int | None = None
    name: str = "structure"
    comparisons: Sequence[Comparison] = tuple(
        Comparison("share_error_percent", SEG_CFT, other, PRIMARY) for other in (REG_CFT, GUIDANCE, UNTUNED, MORPHOLOGY)
    )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Models and seed."""
        return {
            "structure_editor_sha256": self.editor.sha256,
            "scoring_segmenter_sha256": self.judge.sha256,
            "seed": self.seed,
            "kinds": list(self.kinds),
            "slices": self.slices,
        }

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Make and measure every arm for every changed share of one patient."""
        folders = list(study.changed.values())
        if study.labels_path is None or not folders:
            return None
        patient = StructurePatient.read(study, self.judge, self.slices)
        own = segment_volume(patient.volume, self.editor.segmenter)
        cases, kinds, facts, pictures = {}, {}, {}, []
        for case in sorted((StructureCase.read(patient, folder) for folder in folders), key=lambda case: case.change):
            name, kind = f"{SHARE}{case.change:+g}", f"{100 * abs(case.change):g} %"
            if self.kinds and kind not in self.kinds:
                continue
            volumes, cases[name] = self._arms(case, own, with_all=kind == PRIMARY)
            kinds[name] = kind
            facts[name] = {"change": case.change}
            if with_pictures and kinds[name] == PRIMARY:
                pictures += case_pictures(case, {arm: volumes[arm] for arm in (SEG_CFT, REG_CFT, GUIDANCE, MORPHOLOGY)})
        errors = [found[SEG_CFT]["share_error_percent"] for found in cases.values()]
        return PatientResult(study.subject_id, cases, pictures, kinds, -float(np.mean(errors)), facts)

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """Sum up asked and obtained, the response, and the aims."""
        return structure_tables(results)

    def _arms(
        self, case: StructureCase, own: Volume, *, with_all: bool
    ) -> tuple[dict[str, Volume], dict[str, dict[str, float]]]:
        patient = case.patient
        volumes: dict[str, Volume] = {SOURCE: patient.volume}
        measured = {
            SOURCE: case.measured(patient.volume),
            RENDERING: case.measured(case.second_scan, is_rendering=True),
        }
        started = time.monotonic()
        volumes[MORPHOLOGY] = grown_or_shrunk(patient.volume, own, case.ratio)
        measured[MORPHOLOGY] = {
            **case.measured(volumes[MORPHOLOGY]), "elapsed_s": time.monotonic() - started
        }  # fmt: skip
        for arm, (method, corrects) in EDITS.items():
            if arm in PRIMARY_ONLY and not with_all:
                continue
            options: dict[str, Any] = {} if corrects else {"rounds": 1}
            request = StructureRequest(delta=case.change, method=method, seed=self.seed, **options)
            edited = edit_structure(patient.volume, patient.parameters, request, self.editor)
            volumes[arm] = edited.volume
            told = edited.evidence["structure"]
            measured[arm] = {
                **case.measured(edited.volume),
                "own_error_percent": 100 * abs(told["relative_error"]),
                "largest_change_outside_own_breast": told["largest_change_outside"],
                "rounds": float(told["rounds"]),
                "elapsed_s": edited.evidence["elapsed_s"],
            }
        return volumes, measured


def scoring_segmenter(device: str = "cpu", folder: Path | None = None) -> Segmenter:
    """Load the segmenter that scores structure edits.

    It is an instrument, not a model under test: it comes from the package whatever models are in use.

    Args:
        device: Torch device.
        folder: Another model folder.

    Raises:
        CheckpointError: There is none.
    """
    chosen = folder or Path(cfmri_core.__file__).parent / "weights" / "scoring_segmenter"
    if not chosen.is_dir():
        raise CheckpointError(
            f"There is no scoring segmenter in {chosen}.",
            "Train one with 'cfmri train segmenter DATA --output DIR --preset scoring' on subjects that no editor has "
            "seen.",
        )
    return Segmenter.load(chosen, device)
