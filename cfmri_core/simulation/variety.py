"""Anatomies of other build than the drawn ones: for models that must not learn one layout by heart.

Every drawn anatomy shows both breasts before a chest wall, lungs and a heart, in one field of view. A network that
sees nothing else takes them for granted, the heart as its yardstick of brightness for instance.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from cfmri_core.simulation.anatomy import FINE_SPACING_MM, Anatomy, correlated_noise
from cfmri_core.simulation.tissues import Tissue

#: Share of subjects that stay as drawn, that show nothing behind the pectoral muscle, and that show one breast.
PLAIN_SHARE, WITHOUT_THORAX_SHARE, ONE_BREAST_SHARE = 0.3, 0.4, 0.25
#: Share of the others whose lungs show no heart.
WITHOUT_HEART_SHARE = 0.3
#: In-plane size, turn in degrees and shift in mm, drawn uniformly between the ends.
SIZE, TURN_DEG, SHIFT_MM = (0.75, 1.2), (-8.0, 8.0), (-15.0, 15.0)
#: How far the middle of a single breast lies from the midline, about, in mm.
_BREAST_CENTRE_MM = 75.0
#: Deepest dip of the water fraction in fibroglandular tissue, and highest rise of it in fat.
_GLAND_DIP, _FAT_RISE = 0.5, 0.2


def varied(anatomy: Anatomy, seed: int) -> Anatomy:
    """Return the anatomy in another build, or, for some seeds, as it is.

    Size, position, what the field of view shows of the thorax, one breast or two, and how evenly water and
    fat are mixed change; invented throughout.

    Args:
        anatomy: As drawn.
        seed: The same seed gives the same change.
    """
    rng = np.random.default_rng((seed, 9))
    if rng.random() < PLAIN_SHARE:
        return anatomy
    tissue = anatomy.tissue.copy()
    if rng.random() < WITHOUT_THORAX_SHARE:
        tissue[_behind_muscle(anatomy)] = Tissue.AIR
    elif rng.random() < WITHOUT_HEART_SHARE:
        tissue[(tissue == Tissue.VESSEL) & ~anatomy.breast & _behind_muscle(anatomy)] = Tissue.LUNG
    shift = np.array([rng.uniform(*SHIFT_MM), rng.uniform(*SHIFT_MM)])
    if rng.random() < ONE_BREAST_SHARE:
        side = 1 if rng.random() < 0.5 else -1
        middle = tissue.shape[0] // 2
        tissue[slice(None, middle) if side > 0 else slice(middle, None)] = Tissue.AIR
        shift[0] -= side * rng.uniform(0, _BREAST_CENTRE_MM)
    breast = anatomy.breast & (tissue != Tissue.AIR)
    mixed = _mixed(rng, dataclasses.replace(anatomy, tissue=tissue, breast=breast))
    return _moved(mixed, rng.uniform(*SIZE), np.deg2rad(rng.uniform(*TURN_DEG)), shift)


def _behind_muscle(anatomy: Anatomy) -> NDArray[np.bool_]:
    """All that lies behind the front of the chest wall, or of the lung where a rib takes the wall's place."""
    return np.asarray(np.maximum.accumulate(np.isin(anatomy.tissue, (Tissue.CHEST_WALL, Tissue.LUNG)), axis=1))


def _mixed(rng: np.random.Generator, anatomy: Anatomy) -> Anatomy:
    """Mix some fat into fibroglandular tissue and some water into fat, unevenly."""
    pattern = correlated_noise(rng, anatomy.tissue.shape, rng.uniform(1.5, 4.0))
    dip = _GLAND_DIP * rng.random() * np.clip(0.5 + 0.5 * pattern, 0, 1)
    rise = _FAT_RISE * rng.random() * np.clip(0.5 - 0.5 * pattern, 0, 1)
    water = anatomy.water_fraction
    water = np.where(anatomy.tissue == Tissue.FIBROGLANDULAR, water * (1 - dip), water)
    water = np.where(anatomy.breast & (anatomy.tissue == Tissue.FAT), np.minimum(water + rise, 1), water)
    return dataclasses.replace(anatomy, water_fraction=water.astype(np.float32))


def _moved(anatomy: Anatomy, size: float, turn: float, shift_mm: NDArray[np.float64]) -> Anatomy:
    """Scale and turn about the middle of the image, then shift; what comes in from outside is air."""
    to_source = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / size
    middle = (np.array(anatomy.tissue.shape[:2]) - 1) / 2
    offset = middle - to_source @ (middle + shift_mm / FINE_SPACING_MM)

    def sampled(values: NDArray[np.generic], order: int) -> NDArray[np.generic]:
        slices = [
            affine_transform(values[:, :, k], to_source, offset, order=order, cval=0) for k in range(values.shape[2])
        ]
        return np.stack(slices, axis=2)

    return dataclasses.replace(
        anatomy,
        tissue=sampled(anatomy.tissue, 0).astype(np.uint8),
        breast=sampled(anatomy.breast.astype(np.uint8), 0).astype(bool),
        water_fraction=sampled(anatomy.water_fraction, 1).astype(np.float32),
    )
