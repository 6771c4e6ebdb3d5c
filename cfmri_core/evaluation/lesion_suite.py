"""Suite `lesion`: are inserted lesions where they were asked for, like real ones, and removed ones gone?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cfmri_core.data.lesion_scans import breast_labels, read_lesion_mask
from cfmri_core.data.studies import Study
from cfmri_core.evaluation.figures import comparison_figure, oriented_slice
from cfmri_core.evaluation.lesion_case import (
    LesionTruth,
    harmonic_fill,
    insertion_metrics,
    lesion_features,
    removal_metrics,
)
from cfmri_core.evaluation.lesion_tables import BOX, MASK, REMOVAL, lesion_tables
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.evaluation.summary_table import SummaryTable
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.lesion_editor import LesionEditor
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.lesion_editing import edit_lesion
from cfmri_core.pipeline.lesion_method import DEFAULT_LESION_METHOD, LESION_METHODS, LesionRequest, lesion_method
from cfmri_core.pipeline.lesion_region import AskedRegion, BoolArray, breast_mask
from cfmri_core.volume import Volume

#: Name of the paired rendering of the same anatomy without the lesion.
TWIN = "without-lesion"
#: Arms that are no method: the real scan, and what inpainting without a network gives.
REAL, UNEDITED, CLASSICAL = "real lesion", "unedited", "harmonic inpainting"


@dataclass(frozen=True)
class LesionSuite:
    """Insert each patient's own lesion into the scan without it, by mask and by box, and remove it from the other.

    Attributes:
        editors: Editor by kind.
        segmenter: The independent lesion segmenter, trained on other patients.
        encoder: Its features tell how like real lesions the inserted ones are, see `lesion_features`.
        tissue: The tissue segmenter that tells the breast, as in use; ``None`` takes all that is not air.
        methods: Which methods.
        seed: Seed of every edit.
    """

    editors: Mapping[str, LesionEditor]
    segmenter: LesionSegmenter
    encoder: IapPredictor
    tissue: Segmenter | None
    methods: Sequence[str] = tuple(LESION_METHODS)
    seed: int = 0
    name: str = "lesion"
    comparisons: Sequence[Comparison] = field(
        default_factory=lambda: [
            *(
                Comparison("dice", DEFAULT_LESION_METHOD, other, kind)
                for kind in (MASK, BOX)
                for other in LESION_METHODS
                if other != DEFAULT_LESION_METHOD
            ),
            Comparison("psnr_db", DEFAULT_LESION_METHOD, CLASSICAL, REMOVAL),
        ]
    )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Models, methods, seed."""
        return {
            "methods": {name: vars(lesion_method(name)) for name in self.methods},
            "seed": self.seed,
            "editors": {kind: editor.sha256 for kind, editor in self.editors.items()},
            "lesion_segmenter_sha256": self.segmenter.sha256,
            "encoder_sha256": self.encoder.sha256,
            "breast": self.tissue.sha256 if self.tissue else "all that is not air",
        }

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Edit one patient in every way."""
        if study.lesion_path is None or study.labels_path is None or TWIN not in study.changed:
            return None
        truth = _read(study)
        if not truth.mask.any():
            return None
        features: dict[str, Any] = {REAL: self._features(truth.with_lesion, truth)}
        shown: dict[str, Volume] = {"without": truth.without, "real lesion": truth.with_lesion}
        by_mask = AskedRegion(truth.mask, is_box=False)
        cases: dict[str, Mapping[str, Mapping[str, float]]] = {
            MASK: self._insertions(MASK, truth, by_mask, features, shown),
            BOX: self._insertions(BOX, truth, _box(truth), features, shown),
            REMOVAL: self._removals(truth, by_mask, shown),
        }
        score = cases[MASK].get(DEFAULT_LESION_METHOD, {}).get("dice", float("nan"))
        pictures = [_picture(study.subject_id, shown, truth)] if with_pictures else []
        kinds = {case: case for case in cases}
        return PatientResult(study.subject_id, cases, pictures, kinds, score, {"features": features})

    def _insertions(
        self,
        kind: str,
        truth: LesionTruth,
        asked: AskedRegion,
        features: dict[str, Any],
        shown: dict[str, Volume],
    ) -> dict[str, dict[str, float]]:
        arms, breast = {}, breast_mask(truth.without, self.tissue) | truth.mask
        for method in self.methods:
            result, region = self._edited(truth.without, truth, breast, asked, LesionRequest(method=method))
            arms[method] = insertion_metrics(result, region, truth, self.segmenter)
            features[f"{kind}/{method}"] = self._features(result, truth)
            if kind == MASK or method == DEFAULT_LESION_METHOD:
                shown[f"{method}, {kind}"] = result
        arms[REAL] = insertion_metrics(truth.with_lesion, truth.neighbourhood, truth, self.segmenter)
        return arms

    def _removals(
        self, truth: LesionTruth, asked: AskedRegion, shown: dict[str, Volume]
    ) -> dict[str, dict[str, float]]:
        arms, near = {}, truth.neighbourhood
        breast = breast_mask(truth.with_lesion, self.tissue) | truth.mask
        for method in self.methods:
            request = LesionRequest(mode="remove", method=method)
            result, region = self._edited(truth.with_lesion, truth, breast, asked, request)
            arms[method] = removal_metrics(result, region, truth, self.segmenter)
            if method == DEFAULT_LESION_METHOD:
                shown[f"{method}, removed"] = result
        inpainted = truth.with_lesion.with_voxels(harmonic_fill(truth.with_lesion, near))
        arms[CLASSICAL] = removal_metrics(inpainted, near, truth, self.segmenter)
        arms[UNEDITED] = removal_metrics(truth.with_lesion, near, truth, self.segmenter)
        return arms

    def tables(self, results: Sequence[PatientResult]) -> Sequence[SummaryTable]:
        """The thesis' table, realism, and the aims."""
        return lesion_tables(results, self.methods, REAL)

    def _edited(
        self, volume: Volume, truth: LesionTruth, breast: BoolArray, asked: AskedRegion, request: LesionRequest
    ) -> tuple[Volume, BoolArray]:
        editor = self.editors[LESION_METHODS[request.method].model]
        seeded = dataclasses.replace(request, seed=self.seed)
        edit = edit_lesion(volume, truth.parameters, asked, seeded, editor, breast)
        return edit.volume, edit.region

    def _features(self, volume: Volume, truth: LesionTruth) -> list[list[float]]:
        return [[round(float(value), 3) for value in row] for row in lesion_features(volume, truth.mask, self.encoder)]


def _read(study: Study) -> LesionTruth:
    scan, twin = read_scan(study.scan_path), study.changed[TWIN]
    mask, breast = read_lesion_mask(study, scan.volume), breast_labels(study, scan.volume)
    clean = read_nifti(Path(twin) / "truth.nii.gz")
    without = read_scan(Path(twin) / "dicom").volume
    return LesionTruth(
        scan.volume, without, clean, mask, np.asarray(breast) | mask, scan.acquisition.parameters
    )  # fmt: skip


def _box(truth: LesionTruth) -> AskedRegion:
    index = np.argwhere(truth.mask)
    return AskedRegion.of_box([*map(int, index.min(axis=0)), *map(int, index.max(axis=0) + 1)], truth.without)


def _picture(name: str, shown: Mapping[str, Volume], truth: LesionTruth) -> tuple[str, str]:
    """All results side by side in the lesion's largest slice, the field about it, one grey window."""
    k = int(truth.mask.sum(axis=(0, 1)).argmax())
    high = float(np.percentile(truth.with_lesion.voxels, 99.5))
    middle = np.argwhere(truth.mask[:, :, k]).mean(axis=0).astype(int)
    starts = [max(0, min(int(at) - 24, size - 48)) for at, size in zip(middle, truth.mask.shape, strict=False)]
    window = (slice(starts[0], starts[0] + 48), slice(starts[1], starts[1] + 48))
    panels = {
        title: oriented_slice(Volume(volume.voxels[*window, :], volume.affine), k) for title, volume in shown.items()
    }
    return f"{name}: slice {k}", comparison_figure(panels, (0.0, high), "scanner units")
