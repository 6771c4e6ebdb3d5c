"""Add a change to part of a scan and leave every other voxel as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def with_local_change(source: NDArray[Any], change: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the source with the change added where it may be.

    A magnitude image has no negative values, so none arise that are lower than the source's own; a scan of whole
    numbers stays one.

    Args:
        source: Voxels, any numbers.
        change: What to add, same shape and units.
        inside: Where, same shape.
    """
    voxels = source.astype(np.float32)
    edited = np.maximum(source[inside].astype(np.float64) + change[inside], min(0.0, float(source.min())))
    voxels[inside] = np.rint(edited) if np.array_equal(source, np.rint(source)) else edited
    return voxels
