"""One patient and one asked share: what the suite `structure` measures of each arm's volume."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.metrics import masked_psnr_db
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.simulation.protocols import share_change
from cfmri_core.slices import IntensityScale, slab
from cfmri_core.volume import Volume

#: Distance from all fibroglandular tissue, before and after, from which fat has no reason to change, in mm.
FAR_MM = 8.0


@dataclass(frozen=True)
class Tissue:
    """Voxels of each tissue that a segmenter finds.

    Attributes:
        fat: Fat of the breast.
        fibroglandular: Fibroglandular tissue.
        rest: What is neither: muscle, skin, chest, air.
    """

    fat: int
    fibroglandular: int
    rest: int

    @classmethod
    def of(cls, volume: Volume, segmenter: Segmenter) -> Tissue:
        """Segment a volume and count."""
        labels = segment_volume(volume, segmenter).voxels
        return cls(int((labels == 1).sum()), int((labels == 2).sum()), int((labels == 0).sum()))

    @property
    def breast(self) -> int:
        """Voxels of the breast."""
        return self.fat + self.fibroglandular

    @property
    def share(self) -> float:
        """Fibroglandular share of the breast."""
        return self.fibroglandular / max(1, self.breast)


@dataclass(frozen=True)
class StructurePatient:
    """A simulated patient.

    Attributes:
        volume: The scan.
        parameters: How it was acquired.
        labels: True tissue labels.
        judge: Segmenter that no editor has seen.
        slices: First and one past the last slice of the scan that are evaluated.
    """

    volume: Volume
    parameters: AcquisitionParameters
    labels: Volume
    judge: Segmenter
    slices: tuple[int, int]

    @classmethod
    def read(cls, study: Study, judge: Segmenter, slices: int | None = None) -> StructurePatient:
        """Read scan and labels, or so many slices of their middle."""
        scan = read_scan(study.scan_path)
        count = scan.volume.shape[2]
        first = max(0, (count - (slices or count)) // 2)
        shown = first, min(count, first + (slices or count))
        labels = read_labels(study, scan.volume)
        return cls(slab(scan.volume, 2, *shown), scan.acquisition.parameters, slab(labels, 2, *shown), judge, shown)

    @cached_property
    def found(self) -> Tissue:
        """What the judge finds in the scan."""
        return Tissue.of(self.volume, self.judge)


@dataclass(frozen=True)
class StructureCase:
    """A share that is asked for, with the simulator's own rendering of it.

    Attributes:
        patient: The patient.
        change: Relative change asked for.
        truth: The same anatomy with that share, without noise, under the same protocol.
        second_scan: The same with noise of its own.
        labels: Its true labels.
    """

    patient: StructurePatient
    change: float
    truth: Volume
    second_scan: Volume
    labels: Volume

    @classmethod
    def read(cls, patient: StructurePatient, folder: Path) -> StructureCase:
        """Read a paired rendering that `cfmri simulate` made with a target ``share:CHANGE``.

        Raises:
            RequestError: It is none, or is damaged.
        """
        try:
            described = json.loads((folder / "study.json").read_text(encoding="utf-8"))
            change = share_change(described["target"])
        except (OSError, ValueError, KeyError) as error:
            raise RequestError(f"{folder} does not describe a paired rendering.", "Simulate it again.") from error
        truth, labels = (read_nifti(folder / f"{name}.nii.gz") for name in ("truth", "labels"))
        second_scan = read_scan(folder / "dicom").volume
        return cls(patient, change, *(slab(volume, 2, *patient.slices) for volume in (truth, second_scan, labels)))

    @property
    def ratio(self) -> float:
        """Asked over present share."""
        return 1 + self.change

    def measured(self, result: Volume, *, is_rendering: bool = False) -> dict[str, float]:
        """Measure one volume: the judge's areas against what was asked, the simulator's truth, and what had to stay.

        Args:
            result: On the source's grid, in its units.
            is_rendering: Whether it is another scan, whose noise makes differences everywhere.
        """
        before, after = self.patient.found, Tissue.of(result, self.patient.judge)
        asked = before.share * self.ratio
        # The breast stays as large as it was: what is not fibroglandular in it is fat.
        fat = before.breast * (1 - asked)
        true_share = float((self.labels.voxels == 2).sum() / max(1, (self.labels.voxels > 0).sum()))
        found = {
            "share_error_percent": 100 * abs(after.share / asked - 1),
            "share_error_points": 100 * abs(after.share - asked),
            "share_to_truth_error_percent": 100 * abs(after.share / true_share - 1),
            "response": after.share / before.share - 1,
            "fat_error_percent": 100 * abs(after.fat / fat - 1),
            "breast_change_percent": 100 * abs(after.breast / before.breast - 1),
            "rest_change_percent": 100 * abs(after.rest / before.rest - 1),
            "psnr_db": self._psnr_db(result),
        }
        return found if is_rendering else {**found, **self._left_alone(result)}

    def _psnr_db(self, result: Volume) -> float:
        scale = IntensityScale.of(self.patient.volume.voxels)
        inside = self.patient.labels.voxels > 0
        return masked_psnr_db(scale.normalise(result.voxels), scale.normalise(self.truth.voxels), inside)

    def _left_alone(self, result: Volume) -> dict[str, float]:
        """Changes outside the true breast, in stored units, and of fat far from all fibroglandular tissue."""
        source, labels = self.patient.volume, self.patient.labels.voxels
        difference = result.voxels.astype(np.float64) - source.voxels
        outside = labels == 0
        means = [float(source.voxels[labels == label].mean()) for label in (1, 2)]
        contrast = abs(means[1] - means[0])
        far = self._far_fat()
        return {
            "largest_change_outside": float(np.abs(difference[outside]).max(initial=0.0)),
            "changed_outside_percent": 100 * float(np.mean(difference[outside] != 0)),
            "far_fat_shift_percent": 100 * float(difference[far].mean()) / contrast if far.any() else 0.0,
        }

    def _far_fat(self) -> NDArray[np.bool_]:
        gland = (self.patient.labels.voxels == 2) | (self.labels.voxels == 2)
        away = distance_transform_edt(~gland, sampling=self.patient.volume.spacing_mm)
        return np.asarray((self.patient.labels.voxels == 1) & (away >= FAR_MM))
