"""Suite `segmentation`: overlap with the true tissue labels, under the scan's own and under other parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cfmri_core.data.studies import Study, read_labels
from cfmri_core.evaluation.metrics import dice
from cfmri_core.evaluation.suite import Comparison, PatientResult
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.volume import Volume

#: Short names of the labels that are measured.
TISSUES = {1: "fat", 2: "fibroglandular"}


@dataclass(frozen=True)
class SegmentationSuite:
    """Measure Dice per tissue and patient.

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
        cases = {"scan": {"segmenter": self._overlap(scan.volume, truth)}}
        for name, folder in study.paired.items():
            if (folder / "dicom").is_dir():
                rendering = read_scan(folder / "dicom").volume
                cases[name] = {"segmenter": self._overlap(rendering, truth)}
        return PatientResult(study.subject_id, cases)

    def _overlap(self, volume: Volume, truth: Volume) -> dict[str, float]:
        return tissue_dice(segment_volume(volume, self.segmenter), truth)


def tissue_dice(prediction: Volume, truth: Volume) -> dict[str, float]:
    """Return the Dice overlap per tissue, as ``fat dice`` and ``fibroglandular dice``."""
    return {f"{tissue} dice": dice(prediction.voxels, truth.voxels, label) for label, tissue in TISSUES.items()}
