"""Suite `segmentation`: agreement with the true tissue labels, under the scan's own and under other parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.data.studies import Study, read_labels
from cfmri_core.evaluation.metrics import dice
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.evaluation.surface_distance import hausdorff_distance_mm
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.volume import Volume

#: Short names of the labels that are measured.
TISSUES = {1: "fat", 2: "fibroglandular"}


@dataclass(frozen=True)
class SegmentationSuite:
    """Measure overlap, surface distance and volume error per tissue and patient.

    Attributes:
        segmenter: The segmenter.
    """

    segmenter: Segmenter
    name: str = "segmentation"
    comparisons: Sequence[Comparison] = ()

    @property
    def settings(self) -> Mapping[str, Any]:
        """The segmenter."""
        return {"segmenter_sha256": self.segmenter.sha256}

    def evaluate(self, study: Study, with_pictures: bool) -> PatientResult | None:
        """Segment one patient's scan and its renderings under other parameters."""
        del with_pictures
        if study.labels_path is None:
            return None
        scan = read_scan(study.scan_path)
        truth = read_labels(study, scan.volume)
        cases = {"scan": {"segmenter": self._agreement(scan.volume, truth)}}
        for name, folder in study.paired.items():
            if (folder / "dicom").is_dir():
                rendering = read_scan(folder / "dicom").volume
                cases[name] = {"segmenter": self._agreement(rendering, truth)}
        return PatientResult(study.subject_id, cases)

    def _agreement(self, volume: Volume, truth: Volume) -> dict[str, float]:
        return tissue_agreement(segment_volume(volume, self.segmenter), truth)


def tissue_agreement(prediction: Volume, truth: Volume) -> dict[str, float]:
    """Return every measure of one volume, as ``<tissue> dice``, ``<tissue> hd95_mm`` and so on.

    Per tissue: Dice; recall (share of the true voxels that are found, the paper's accuracy); 95th
    percentile Hausdorff distance in millimetres. Besides: recall of the background, ``mean dice`` of
    both tissues, and the error of the fibroglandular volume in percent of the true one, without its sign.
    """
    found, true = prediction.voxels, truth.voxels
    recalls = {"background recall": _recall(found, true, 0)}
    recalls |= {f"{tissue} recall": _recall(found, true, label) for label, tissue in TISSUES.items()}
    distances = {
        f"{tissue} hd95_mm": hausdorff_distance_mm(found == label, true == label, truth.spacing_mm)
        for label, tissue in TISSUES.items()
    }
    overlaps = tissue_dice(prediction, truth)
    measured = [value for value in overlaps.values() if math.isfinite(value)]
    overlaps["mean dice"] = float(np.mean(measured)) if measured else math.nan
    size, error = int((true == 2).sum()), abs(int((found == 2).sum()) - int((true == 2).sum()))
    volume_error = {"fibroglandular volume_error_percent": 100 * error / size if size else math.nan}
    return {**overlaps, **recalls, **distances, **volume_error}


def tissue_dice(prediction: Volume, truth: Volume) -> dict[str, float]:
    """Return the Dice overlap per tissue, as ``fat dice`` and ``fibroglandular dice``."""
    return {f"{tissue} dice": dice(prediction.voxels, truth.voxels, label) for label, tissue in TISSUES.items()}


def _recall(found: NDArray[np.integer[Any]], true: NDArray[np.integer[Any]], label: int) -> float:
    size = int((true == label).sum())
    return int(((true == label) & (found == label)).sum()) / size if size else math.nan
