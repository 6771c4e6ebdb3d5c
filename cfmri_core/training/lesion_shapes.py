"""Shapes of known lesions, turned a little and laid somewhere else: where an inserted lesion is to be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label, map_coordinates

from cfmri_core.errors import RequestError
from cfmri_core.pipeline.lesion_region import BoolArray
from cfmri_core.volume import Volume

#: How far a shape is turned about the body's axis, in degrees to either side, and by how much it is scaled at most.
TURN_DEG, SCALE = 45.0, 1.25
#: Share of a lesion's volume that must lie in the breast and in the scan; what juts out is cut off.
LEAST_INSIDE = 0.8
#: Places that are tried for a lesion before it is given up.
_TRIES = 40


@dataclass(frozen=True)
class Pose:
    """How a shape is laid.

    Attributes:
        is_mirrored: Whether left and right change places.
        turn_deg: Turn about the body's axis.
        scale: Factor of every length.
    """

    is_mirrored: bool = False
    turn_deg: float = 0.0
    scale: float = 1.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Pose:
        """Draw a moderate pose."""
        scale = float(np.exp(rng.uniform(-1, 1) * np.log(SCALE)))
        return cls(bool(rng.random() < 0.5), float(rng.uniform(-TURN_DEG, TURN_DEG)), scale)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Offsets of the shape to offsets in the scan, both RAS millimetres, shape ``(3, 3)``."""
        cosine, sine = np.cos(np.radians(self.turn_deg)), np.sin(np.radians(self.turn_deg))
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
        mirror = np.diag([-1.0 if self.is_mirrored else 1.0, 1, 1])
        return np.asarray(self.scale * turn @ mirror)


@dataclass(frozen=True)
class LesionShape:
    """The mask of one lesion, cut out of its scan.

    Attributes:
        inside: Its voxels with an empty margin of one, bool, shape ``(i, j, k)``.
        matrix: Voxel offsets to RAS millimetres, shape ``(3, 3)``.
    """

    inside: BoolArray
    matrix: NDArray[np.float64]

    @classmethod
    def of(cls, mask: Volume) -> LesionShape:
        """Take the largest connected part of a mask; every value but 0 counts.

        Raises:
            RequestError: The mask is empty.
        """
        parts, count = label(mask.voxels != 0)
        if not count:
            raise RequestError("A lesion mask is empty.", "Remove it, or mark the lesion.")
        index = np.argwhere(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]))
        low = index.min(axis=0)
        inside = np.zeros(index.max(axis=0) - low + 3, bool)
        inside[tuple((index - low + 1).T)] = True
        return cls(inside, mask.affine[:3, :3])

    @cached_property
    def volume_ml(self) -> float:
        """Volume in millilitres."""
        return float(self.inside.sum() * abs(np.linalg.det(self.matrix)) / 1000)

    def placed(self, grid: Volume, centre: NDArray[np.float64], pose: Pose) -> BoolArray:
        """Lay the shape into a scan.

        Args:
            grid: The scan, for its grid alone.
            centre: Where its middle is, in voxels of the scan, shape ``(3,)``.
            pose: How it is laid.

        Returns:
            Mask, bool, shape of the scan; what juts out of the scan is lost.
        """
        own = np.argwhere(self.inside)
        middle = own.mean(axis=0)
        radius_mm = pose.scale * float(np.linalg.norm((own - middle) @ self.matrix.T, axis=1).max())
        reach = np.ceil(radius_mm / np.asarray(grid.spacing_mm)).astype(int) + 1
        nearest = np.rint(centre).astype(int)
        low, high = np.maximum(nearest - reach, 0), np.minimum(nearest + reach + 1, grid.shape)
        box = tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
        index = np.stack(np.meshgrid(*(np.arange(side.start, side.stop) for side in box), indexing="ij"), axis=-1)
        to_own = np.linalg.inv(pose.matrix @ self.matrix) @ grid.affine[:3, :3]
        there = (index - centre) @ to_own.T + middle
        result = np.zeros(grid.shape, bool)
        result[box] = map_coordinates(self.inside.astype(np.float32), np.moveaxis(there, -1, 0), order=1) >= 0.5
        return result


def drawn_mask(
    shape: LesionShape, grid: Volume, gland: BoolArray, breast: BoolArray, rng: np.random.Generator
) -> BoolArray | None:
    """Lay a shape, in a random pose, about a random point of fibroglandular tissue.

    Args:
        shape: Of a known lesion.
        grid: The scan, for its grid alone.
        gland: Fibroglandular tissue, bool, shape of the scan.
        breast: The breast, bool, same shape; the mask is cut off there.
        rng: Draws pose and place.

    Returns:
        Mask, bool, same shape; ``None`` where no place was found that has room for it.
    """
    places, pose = np.argwhere(gland), Pose.drawn(rng)
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    for _ in range(_TRIES if len(places) else 0):
        centre = places[rng.integers(len(places))] + rng.uniform(-0.5, 0.5, 3)
        mask = shape.placed(grid, centre, pose) & breast
        if mask.any() and mask.sum() * voxel_ml >= LEAST_INSIDE * shape.volume_ml * pose.scale**3:
            return mask
    return None
