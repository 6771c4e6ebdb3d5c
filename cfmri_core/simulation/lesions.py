"""Mass lesions put into an anatomy, so that the same anatomy stands without them.

Invented throughout: shapes, sizes, places, and what a lesion does to the tissue around it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from cfmri_core.errors import GeometryError
from cfmri_core.simulation.anatomy import FINE_SPACING_MM, Anatomy, correlated_noise
from cfmri_core.simulation.tissues import WATER_POOLS, Tissue

#: Radius drawn uniformly in mm, and how far each axis departs from it as a share.
RADIUS_MM, AXIS_SPREAD = (5.0, 13.0), 0.3
#: How ragged the surface is: standard deviation of the logarithm of the squared radius.
_RAGGEDNESS = 0.35
#: Water that swelling adds to fat at the lesion's edge, as a share, and how far out it falls to 1/e, in mm.
OEDEMA_WATER, OEDEMA_REACH_MM = 0.30, 3.0
#: Lesions of one subject keep this distance between their surfaces, in mm.
_GAP_MM = 12.0


def with_lesions(anatomy: Anatomy, count: int, seed: int) -> Anatomy:
    """Put irregular masses into fibroglandular tissue, each with a rim of swelling in the fat around it.

    Args:
        anatomy: Without lesions; it is not changed.
        count: How many.
        seed: The same seed puts the same lesions into the same anatomy.

    Raises:
        GeometryError: The anatomy has no fibroglandular tissue, or no room for so many.
    """
    if count == 0:
        return anatomy
    rng = np.random.default_rng((seed, 11))
    tissue = anatomy.tissue.copy()
    for _ in range(count):
        tissue[_drawn(rng, tissue, anatomy.breast)] = Tissue.LESION
    lesion = (tissue == Tissue.LESION) & (anatomy.tissue != Tissue.LESION)
    return dataclasses.replace(anatomy, tissue=tissue, water_fraction=_water(anatomy, lesion))


def _drawn(rng: np.random.Generator, tissue: NDArray[np.uint8], breast: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One ragged ellipsoid, whole where the slab allows, away from the lesions that are there already."""
    radius_mm = rng.uniform(*RADIUS_MM)
    radii = radius_mm * rng.uniform(1 - AXIS_SPREAD, 1 + AXIS_SPREAD, 3) / FINE_SPACING_MM
    centre = _centre(rng, tissue, breast, radii)
    grid = np.ogrid[tuple(slice(0, size) for size in tissue.shape)]
    distance = sum(((axis - at) / r) ** 2 for axis, at, r in zip(grid, centre, radii, strict=True))
    ragged = distance * np.exp(_RAGGEDNESS * correlated_noise(rng, tissue.shape, 3.0)) < 1
    parts, _ = label((ragged | (distance < 0.2)) & breast)
    return np.asarray(parts == parts[tuple(centre)])


def _centre(
    rng: np.random.Generator, tissue: NDArray[np.uint8], breast: NDArray[np.bool_], radii: NDArray[np.float64]
) -> NDArray[np.int64]:
    possible = breast & (tissue == Tissue.FIBROGLANDULAR)
    if (tissue == Tissue.LESION).any():
        possible &= distance_transform_edt(tissue != Tissue.LESION) * FINE_SPACING_MM > _GAP_MM + max(radii)
    margin = min(int(np.ceil(radii[2])), (tissue.shape[2] - 1) // 2)
    possible[:, :, :margin] = False
    possible[:, :, tissue.shape[2] - margin :] = False
    candidates = np.argwhere(possible)
    if not len(candidates):
        raise GeometryError("There is no room for the lesions in fibroglandular tissue.", "Ask for fewer lesions.")
    return np.asarray(candidates[rng.integers(len(candidates))])


def _water(anatomy: Anatomy, lesion: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Water share with the lesions' own inside and swelling around them; borders softened by half a voxel."""
    outside_mm = distance_transform_edt(~lesion) * FINE_SPACING_MM
    swollen = anatomy.water_fraction + OEDEMA_WATER * np.exp(-outside_mm / OEDEMA_REACH_MM) * anatomy.breast
    share = gaussian_filter(lesion.astype(np.float32), 0.5)
    own = WATER_POOLS[Tissue.LESION].water_fraction
    return np.asarray(np.minimum(swollen, 1) * (1 - share) + own * share, dtype=np.float32)
