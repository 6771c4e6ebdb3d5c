"""Classical arms: what mapping intensities can do without a trained network.

Both arms know a population under the factual and under the requested parameters, but nothing of the patient's truth:
a few simulated subjects, none of them under test, scanned under exactly these parameters. That is more than a hospital
has, so the arms are favoured, not handicapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.evaluation.metrics import tissue_means
from cfmri_core.simulation.anatomy import Anatomy, generate_anatomy
from cfmri_core.simulation.scanner import Subject, draw_subject, scan, scanned_labels
from cfmri_core.simulation.settings import setting_named
from cfmri_core.slices import IntensityScale

#: Seeds of the reference subjects; no simulated study uses seeds this high.
REFERENCE_SEEDS = (990_001, 990_002, 990_003)
#: Percentiles of the foreground that histogram matching aligns.
LANDMARKS = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)

Voxels = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PopulationIntensities:
    """What a population looks like under some parameters, means over subjects in normalised units.

    Attributes:
        landmarks: `foreground_landmarks`.
        means: Mean of fat and of fibroglandular tissue.
    """

    landmarks: NDArray[np.float64]
    means: tuple[float, float]


@dataclass(frozen=True)
class ReferencePopulation:
    """Subjects that can be scanned under any parameters, none of them under test.

    Attributes:
        setting: Simulator setting they live in.
        seeds: One subject each.
        slab_mm: Extent along the body.
    """

    setting: str
    seeds: Sequence[int] = REFERENCE_SEEDS
    slab_mm: float = 20.0

    @cached_property
    def _subjects(self) -> list[tuple[Anatomy, Subject]]:
        setting = setting_named(self.setting)
        anatomies = [(seed, generate_anatomy(seed, slab_mm=self.slab_mm)) for seed in self.seeds]
        return [(anatomy, draw_subject(anatomy, seed, setting)) for seed, anatomy in anatomies]

    @cached_property
    def _known(self) -> dict[AcquisitionParameters, PopulationIntensities]:
        return {}

    def under(self, parameters: AcquisitionParameters) -> PopulationIntensities:
        """Scan the population under some parameters; what was scanned once is remembered."""
        if parameters not in self._known:
            self._known[parameters] = self._scanned(parameters)
        return self._known[parameters]

    def _scanned(self, parameters: AcquisitionParameters) -> PopulationIntensities:
        landmarks, means = [], []
        for seed, (anatomy, subject) in zip(self.seeds, self._subjects, strict=True):
            volume = scan(anatomy, subject, parameters, noise_seed=seed)
            voxels = IntensityScale.of(volume.voxels).normalise(volume.voxels)
            of_tissue = tissue_means(voxels, scanned_labels(anatomy).voxels)
            landmarks.append(foreground_landmarks(voxels))
            means.append((of_tissue[1], of_tissue[2]))
        fat, gland = np.mean(means, axis=0)
        return PopulationIntensities(np.asarray(np.mean(landmarks, axis=0)), (float(fat), float(gland)))


def foreground_landmarks(voxels: Voxels) -> NDArray[np.float64]:
    """Return the percentiles `LANDMARKS` of the voxels brighter than the mean of all.

    Source: Nyúl, Udupa & Zhang, IEEE Trans Med Imaging 2000;19:143-150 (deciles as landmarks, foreground by the mean).
    """
    return np.asarray(np.percentile(voxels[voxels > voxels.mean()], LANDMARKS), dtype=np.float64)


def histogram_matched(voxels: Voxels, target_landmarks: NDArray[np.float64]) -> NDArray[np.float32]:
    """Map a volume's landmarks to the target's, linear between them, and as the last piece beyond them.

    Args:
        voxels: Normalised intensity.
        target_landmarks: Of the target population, increasing.

    Source: Nyúl, Udupa & Zhang 2000, eq. 1-3.
    """
    have = np.concatenate([[0.0], foreground_landmarks(voxels)])
    want = np.concatenate([[0.0], target_landmarks])
    mapped = np.interp(voxels, have, want)
    for beyond, end, inner in ((voxels > have[-1], -1, -2), (voxels < have[0], 0, 1)):
        gain = (want[end] - want[inner]) / (have[end] - have[inner])
        mapped = np.where(beyond, want[end] + gain * (voxels - have[end]), mapped)
    return mapped.astype(np.float32)


def affine_matched(voxels: Voxels, factual: tuple[float, float], requested: tuple[float, float]) -> NDArray[np.float32]:
    """Map intensities by the line that takes the population's factual tissue means to the requested ones."""
    gain = (requested[1] - requested[0]) / (factual[1] - factual[0])
    return (requested[0] + gain * (voxels - factual[0])).astype(np.float32)
