"""How far apart the surfaces of two segmentations lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from cfmri_core.errors import GeometryError


def hausdorff_distance_mm(
    prediction: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    percentile: float = 95.0,
) -> float:
    """Return the symmetric percentile Hausdorff distance in millimetres; NaN where either is empty.

    Distances from each surface voxel to the nearest one of the other surface, both ways; the larger of
    the two percentiles. A surface voxel has a face neighbour outside the object; the border of the
    volume is no surface.

    Args:
        prediction: Shape ``(i, j, k)``.
        truth: Same shape.
        spacing_mm: Distance of voxels along i, j, k.
        percentile: 95 leaves out stray voxels, 100 is the maximum.

    Raises:
        GeometryError: The shapes differ.

    Source: Huttenlocher et al., IEEE Trans Pattern Anal 1993;15:850-863, with a percentile for the maximum.
    """
    if prediction.shape != truth.shape:
        raise GeometryError(f"Labels of shape {prediction.shape} and {truth.shape} cannot be compared.")
    box = _box_around(prediction | truth)
    if box is None or not prediction.any() or not truth.any():
        return math.nan
    ours, theirs = _surface(prediction)[box], _surface(truth)[box]
    if not ours.any() or not theirs.any():
        return math.nan
    to_theirs = distance_transform_edt(~theirs, sampling=spacing_mm)[ours]
    to_ours = distance_transform_edt(~ours, sampling=spacing_mm)[theirs]
    return float(max(np.percentile(to_theirs, percentile), np.percentile(to_ours, percentile)))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    surface: NDArray[np.bool_] = mask & ~binary_erosion(mask, border_value=1)
    return surface


def _box_around(mask: NDArray[np.bool_]) -> tuple[Any, ...] | None:
    """Return slices of the smallest box that holds the mask: distances outside it are never asked for."""
    if not mask.any():
        return None
    extents = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask.any(axis=others))
        extents.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(extents)
