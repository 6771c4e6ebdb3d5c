"""A volume: voxels and the affine that places them in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.errors import GeometryError


@dataclass(frozen=True)
class Volume:
    """A 3D scalar image in patient space.

    Attributes:
        voxels: Values, shape ``(i, j, k)``; for a DICOM series i runs along a row (columns),
            j down the rows, k from slice to slice. float32 for images, uint8 for labels.
        affine: Voxel index to RAS+ millimetres, float64, shape ``(4, 4)``.

    Raises:
        GeometryError: Not 3D, empty, not finite, or the affine is not an invertible affine.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or 0 in self.voxels.shape:
            raise GeometryError(
                f"A volume needs three axes of at least one voxel; this one has shape {self.voxels.shape}.",
                "Give one 3D series; split 4D data first.",
            )
        affine = np.asarray(self.affine, dtype=np.float64)
        object.__setattr__(self, "affine", affine)
        if affine.shape != (4, 4) or not np.all(np.isfinite(affine)) or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError("The voxel-to-world affine is not a finite 4x4 affine matrix.")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise GeometryError("The voxel-to-world affine is singular: two axes coincide or a spacing is zero.")
        if np.issubdtype(self.voxels.dtype, np.floating) and not np.all(np.isfinite(self.voxels)):
            raise GeometryError("The volume holds NaN or infinite values.", "Repair or export the series again.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along i, j, k."""
        i, j, k = self.voxels.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k, in millimetres."""
        i, j, k = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k

    def with_voxels(self, voxels: NDArray[Any]) -> Volume:
        """Return a volume of the same grid with other values.

        Raises:
            GeometryError: The shape differs.
        """
        if voxels.shape != self.voxels.shape:
            raise GeometryError(f"Values of shape {voxels.shape} do not fit a grid of shape {self.shape}.")
        return Volume(voxels, self.affine)

    def has_same_grid(self, other: Volume, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have one shape and agree at every corner within the tolerance."""
        if self.shape != other.shape:
            return False
        extent = np.array(self.shape) - 1
        corners = np.array([(*(extent * (bits >> np.arange(3) & 1)), 1) for bits in range(8)], dtype=float)
        distance = np.linalg.norm((corners @ self.affine.T - corners @ other.affine.T)[:, :3], axis=1)
        return bool(distance.max() <= tolerance_mm)
