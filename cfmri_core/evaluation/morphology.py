"""The baseline of structure edits without learning: move the border of fibroglandular tissue, and swap intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cfmri_core.pipeline.local_change import with_local_change
from cfmri_core.volume import Volume

#: Width of the Gaussian over which the level of a tissue is taken, in mm.
LEVEL_SIGMA_MM = 8.0


def grown_or_shrunk(volume: Volume, labels: Volume, ratio: float) -> Volume:
    """Return a volume whose fibroglandular tissue was grown or shrunk evenly along its border.

    Which voxels change sides follows from their distance to the border alone, so that the labelled volume becomes
    ``ratio`` times what it is. A voxel that changes sides gets the local mean of the tissue it now is, and keeps what
    it had beyond the local mean of the tissue it was.

    Args:
        volume: Source.
        labels: 0 background, 1 fat, 2 fibroglandular, same grid; nothing but 1 and 2 changes.
        ratio: Wanted over present fibroglandular volume.
    """
    fat, gland = labels.voxels == 1, labels.voxels == 2
    moved = _moved_border(fat, gland, ratio, volume.spacing_mm)
    source = volume.voxels.astype(np.float64)
    sigma = tuple(LEVEL_SIGMA_MM / spacing for spacing in volume.spacing_mm)
    step = _local_mean(source, gland, sigma) - _local_mean(source, fat, sigma)
    change = np.where(moved & fat, step, 0.0) - np.where(~moved & gland, step, 0.0)
    return volume.with_voxels(with_local_change(volume.voxels, change, moved ^ gland))


def _moved_border(
    fat: NDArray[np.bool_], gland: NDArray[np.bool_], ratio: float, spacing_mm: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """Where fibroglandular tissue is after its border has moved outwards or inwards."""
    wanted = round(int(gland.sum()) * ratio)
    depth = distance_transform_edt(gland, sampling=spacing_mm) - distance_transform_edt(~gland, sampling=spacing_mm)
    candidates = np.flatnonzero(fat | gland)
    order = np.argsort(-depth.ravel()[candidates], kind="stable")
    moved = np.zeros(gland.size, dtype=bool)
    moved[candidates[order[:wanted]]] = True
    return moved.reshape(gland.shape)


def _local_mean(values: NDArray[np.float64], where: NDArray[np.bool_], sigma: tuple[float, ...]) -> NDArray[Any]:
    """Gaussian mean over some voxels; far from all of them, their plain mean."""
    weight = gaussian_filter(where.astype(np.float64), sigma)
    mean = gaussian_filter(np.where(where, values, 0.0), sigma) / np.maximum(weight, 1e-6)
    return np.where(weight > 1e-3, mean, values[where].mean() if where.any() else 0.0)
