"""Breast anatomies: procedural and seeded, or from a label map.

Everything here is invented to look and measure like a prone bilateral breast: no patient's image
went into it. The share of fibroglandular tissue is drawn from the range measured on published label
maps (7-38 %, mean 18 %).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.simulation.tissues import WATER_POOLS, Tissue
from cfmri_core.volume import Volume

FloatArray = NDArray[np.float32]

#: Spacing of the fine grid on which anatomies are drawn, in mm; the scanner samples it more coarsely.
FINE_SPACING_MM = 1.171875
#: Field of view of the axial image, in mm, and of the slab along the body.
FIELD_OF_VIEW_MM = 300.0
#: Fraction of the field of view in front of the chest wall.
_ANTERIOR_SHARE = 0.43
#: Fibroglandular share of breast tissue over published label maps.
FIBROGLANDULAR_SHARE = (0.07, 0.38)


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one subject on a fine grid.

    Attributes:
        tissue: `Tissue` per voxel, uint8, shape ``(i, j, k)``: i towards the patient's left, j towards
            the back, k towards the head.
        water_fraction: Share of water protons, float32 in [0, 1], same shape; smooth across borders.
        breast: Whether the voxel belongs to a breast (skin excluded), bool, same shape.
        texture: Relative modulation of proton density, float32 about 1, same shape.
        affine: Voxel index to RAS+ millimetres.
    """

    tissue: NDArray[np.uint8]
    water_fraction: FloatArray
    breast: NDArray[np.bool_]
    texture: FloatArray
    affine: NDArray[np.float64]

    @property
    def fibroglandular_share(self) -> float:
        """Fibroglandular share of the breast volume."""
        return float(np.mean(self.tissue[self.breast] == Tissue.FIBROGLANDULAR))

    def tissue_labels(self) -> NDArray[np.uint8]:
        """Labels as the segmenter learns them: background 0, fat 1, fibroglandular (lesions included) 2."""
        glandular = np.isin(self.tissue, (Tissue.FIBROGLANDULAR, Tissue.LESION, Tissue.VESSEL))
        return np.where(self.breast, np.where(glandular, 2, 1), 0).astype(np.uint8)


def generate_anatomy(seed: int, *, slab_mm: float = 60.0, share_change: float = 0.0) -> Anatomy:
    """Draw one bilateral anatomy, without lesions (see `cfmri_core.simulation.lesions`).

    Args:
        seed: The same seed gives the same anatomy.
        slab_mm: Extent along the body.
        share_change: Relative change of the share labelled as fibroglandular (vessels count, and stay as they are): the
            same anatomy, its glands grown or shrunk along their own score. 0.2 is 20 % more.

    Raises:
        RequestError: The glands cannot be changed by that much.
    """
    rng = np.random.default_rng((seed, 1))
    columns = rows = round(FIELD_OF_VIEW_MM / FINE_SPACING_MM)
    slices = max(4, round(slab_mm / FINE_SPACING_MM))
    left = _axis_mm(columns, FIELD_OF_VIEW_MM / 2)[:, None, None]
    back = _axis_mm(rows, FIELD_OF_VIEW_MM * _ANTERIOR_SHARE)[None, :, None]
    head = _axis_mm(slices, slab_mm / 2)[None, None, :]
    surfaces = _draw_surfaces(rng, left[:, 0, :], head[0, :, :])
    tissue = _paint_layers(rng, back, surfaces, (columns, rows, slices))
    breast = (tissue == Tissue.FAT) & (surfaces.bump > 0.02)[:, None, :] & (back < surfaces.muscle[:, None, :])
    score = _glandular_score(rng, left, back, head, surfaces)
    share = float(np.clip(rng.beta(2.0, 3.2) * 0.31 + 0.07, *FIBROGLANDULAR_SHARE))
    gland = _paint_glands(tissue, breast, score, share)
    _paint_vessels(rng, tissue, breast)
    if share_change:
        gland = _repaint_glands(tissue, breast, score, share_change)
    water = _water_fraction(tissue, gland)
    texture = np.exp(0.05 * correlated_noise(rng, tissue.shape, 2.5)).astype(np.float32)
    return Anatomy(tissue, water, breast, texture, _affine(tissue.shape))


#: Values of the published breast label maps (Pelicano et al., PLoS ONE 2024 e0302974): tiers 1-7 run from the purest
#: fibroglandular to the purest fat; the order is measured there, the water fractions are a guess.
LABEL_MAP_WATER = {1: 0.95, 2: 0.85, 3: 0.75, 4: 0.45, 5: 0.20, 6: 0.10, 7: 0.03, 8: 0.85, 9: 0.97, 10: 0.98, 11: 0.98}


def anatomy_from_labels(labels: Volume, *, seed: int = 0, slab_mm: float = 60.0) -> Anatomy:
    """Build an anatomy from a label map, resampled to the simulator's field of view.

    Args:
        labels: 0 air, 1-3 fibroglandular tiers, 4 transition, 5-7 fat tiers, 8 skin, 9 pectoral muscle,
            10 benign and 11 malignant tumour; any orientation.
        seed: Seed of the texture.
        slab_mm: Extent along the body about the centre of the labelled region.

    Raises:
        GeometryError: The map holds other values, or no fibroglandular or fat voxel.
    """
    values = np.unique(labels.voxels)
    unknown = sorted({int(value) for value in values} - {0, *LABEL_MAP_WATER})
    if unknown:
        raise GeometryError(
            f"The label map holds the values {unknown}.", "Accepted are 0 to 11; see `cfmri simulate --help`."
        )
    if not np.isin(labels.voxels, (1, 2, 3)).any() or not np.isin(labels.voxels, (5, 6, 7)).any():
        raise GeometryError("The label map holds no fibroglandular or no fat voxel.", "Give a breast label map.")
    size = round(FIELD_OF_VIEW_MM / FINE_SPACING_MM)
    shape = (size, size, max(4, round(slab_mm / FINE_SPACING_MM)))
    sampled = _resample_labels(labels, shape)
    rng = np.random.default_rng((seed, 2))
    tissue = np.zeros(shape, np.uint8)
    water = np.zeros(shape, np.float32)
    for value, fraction in LABEL_MAP_WATER.items():
        water[sampled == value] = fraction
    inside = sampled > 0
    weight = gaussian_filter(inside.astype(np.float32), 0.8)
    smooth = gaussian_filter(water, 0.8) / np.maximum(weight, 0.05)
    tissue[np.isin(sampled, (1, 2, 3, 4)) & (smooth >= 0.5)] = Tissue.FIBROGLANDULAR
    tissue[np.isin(sampled, (4, 5, 6, 7)) & (tissue == 0)] = Tissue.FAT
    tissue[np.isin(sampled, (1, 2, 3)) & (tissue == 0)] = Tissue.FAT
    tissue[sampled == 8] = Tissue.SKIN
    tissue[sampled == 9] = Tissue.MUSCLE
    tissue[np.isin(sampled, (10, 11))] = Tissue.LESION
    breast = np.isin(sampled, (1, 2, 3, 4, 5, 6, 7, 10, 11))
    texture = np.exp(0.05 * correlated_noise(rng, shape, 2.5)).astype(np.float32)
    return Anatomy(tissue, np.where(inside, smooth, 0).astype(np.float32), breast, texture, _affine(shape))


def correlated_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma_voxels: float) -> FloatArray:
    """Gaussian noise smoothed to a correlation length, zero mean and unit variance, float32.

    Drawn on a coarser grid when the correlation allows, because smoothing the fine grid is what
    costs time.
    """
    factor = max(1.0, sigma_voxels / 2.0)
    coarse = tuple(max(4, int(np.ceil(size / factor)) + 2) for size in shape) if factor > 1.0 else shape
    field = gaussian_filter(rng.standard_normal(coarse, dtype=np.float32), sigma_voxels / factor, mode="wrap")
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    if factor > 1.0:
        field = zoom(field, [size / have for size, have in zip(shape, coarse, strict=True)], order=1)
    return np.asarray(field, dtype=np.float32)


@dataclass(frozen=True)
class _Surfaces:
    """Surfaces as heights towards the back in mm, shape ``(i, k)``, and the breasts' outline."""

    skin: FloatArray
    muscle: FloatArray
    muscle_thickness_mm: float
    bump: FloatArray
    nipples: tuple[tuple[float, float, float], tuple[float, float, float]]


def _axis_mm(size: int, before_mm: float) -> FloatArray:
    return (np.arange(size, dtype=np.float32) + 0.5) * FINE_SPACING_MM - before_mm


def _affine(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """RAS affine of the fine grid: i towards left and j towards back are negative axes."""
    affine = np.diag([-FINE_SPACING_MM, -FINE_SPACING_MM, FINE_SPACING_MM, 1.0])
    before = np.array([FIELD_OF_VIEW_MM / 2, FIELD_OF_VIEW_MM * _ANTERIOR_SHARE, -shape[2] * FINE_SPACING_MM / 2])
    affine[:3, 3] = before + 0.5 * np.diag(affine)[:3]
    return affine


def _draw_surfaces(rng: np.random.Generator, left: FloatArray, head: FloatArray) -> _Surfaces:
    half_width, half_depth = rng.uniform(155, 185), rng.uniform(85, 110)
    torso = half_depth * (1 - np.sqrt(np.clip(1 - (left / half_width) ** 2, 0.0, 1)))
    outside = np.abs(left) > half_width * 0.995
    muscle = torso + rng.uniform(2, 8) + 1.5 * correlated_noise(rng, (left.shape[0], head.shape[1]), 14.0)
    cover_mm, depth_mm = rng.uniform(8, 18), rng.uniform(45, 95)
    height, nipples = np.zeros_like(muscle), []
    for side in (-1, 1):
        depth = depth_mm * rng.uniform(0.9, 1.1)
        centre, centre_head = side * rng.uniform(72, 84), rng.uniform(-12, 12)
        width, length = rng.uniform(56, 70), rng.uniform(62, 80)
        bump = np.clip(1 - (np.abs(left - centre) / width) ** 2.2 - (np.abs(head - centre_head) / length) ** 2.2, 0, 1)
        height = np.maximum(height, depth * bump**0.55)
        base = float(np.interp(abs(centre), np.abs(left[left.shape[0] // 2 :, 0]), torso[left.shape[0] // 2 :, 0]))
        nipples.append((centre, base - cover_mm - depth, centre_head))
    height = gaussian_filter(height, 2.0) * (1 + 0.04 * correlated_noise(rng, height.shape, 12.0))
    skin = np.where(outside, 1e3, torso - cover_mm - height).astype(np.float32)
    muscle = np.maximum(muscle, skin + 5).astype(np.float32)
    thickness = float(rng.uniform(7, 16))
    return _Surfaces(skin, muscle, thickness, (height / depth_mm).astype(np.float32), (nipples[0], nipples[1]))


def _paint_layers(
    rng: np.random.Generator, back: FloatArray, surfaces: _Surfaces, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Air, skin, fat, pectoral muscle, ribs and lung from front to back."""
    skin, muscle = surfaces.skin[:, None, :], surfaces.muscle[:, None, :]
    wall_mm = surfaces.muscle_thickness_mm + rng.uniform(14, 20)
    tissue = np.full(shape, Tissue.AIR, np.uint8)
    tissue[np.broadcast_to(back >= skin, shape)] = Tissue.SKIN
    tissue[back >= skin + rng.uniform(1.5, 2.4)] = Tissue.FAT
    tissue[np.broadcast_to((back >= muscle) & (skin < 500), shape)] = Tissue.MUSCLE
    tissue[(back >= muscle + surfaces.muscle_thickness_mm) & (skin < 500)] = Tissue.CHEST_WALL
    lung = (back >= muscle + wall_mm) & (skin < 500)
    tissue[lung] = Tissue.LUNG
    left = np.arange(shape[0])[:, None, None] * FINE_SPACING_MM - FIELD_OF_VIEW_MM / 2
    heart = ((left - 25) / 55) ** 2 + ((back - surfaces.muscle.min() - wall_mm - 58) / 48) ** 2 < 1
    tissue[lung & heart] = Tissue.VESSEL
    ribs = correlated_noise(rng, shape, 6.0) > 0.9
    tissue[(tissue == Tissue.CHEST_WALL) & ribs] = Tissue.FAT
    return tissue


def _glandular_score(
    rng: np.random.Generator, left: FloatArray, back: FloatArray, head: FloatArray, surfaces: _Surfaces
) -> FloatArray:
    """How glandular a voxel wants to be: a cone behind the nipple, correlated texture, branching ducts."""
    shape = np.broadcast_shapes(left.shape, back.shape, head.shape)
    score = 0.55 * correlated_noise(rng, shape, 7.0) + 0.4 * correlated_noise(rng, shape, 3.0)
    strands = np.abs(correlated_noise(rng, shape, 4.5))
    score += 0.5 * (0.6 - strands)
    skin = surfaces.skin[:, None, :]
    depth_from_skin = np.clip((back - skin - 6) / 10, -1.5, 1)
    cone = np.full(shape, -9.0, np.float32)
    for nipple in surfaces.nipples:
        behind = np.maximum(back - nipple[1], 1.0)
        lateral = np.sqrt((left - nipple[0] * 1.05) ** 2 + (head - nipple[2]) ** 2)
        cone = np.maximum(cone, 1.6 - lateral / (0.55 * behind + 12) - np.abs(behind - 42) / 60)
        score += 2.2 * _ducts(rng, shape, nipple)
    return np.asarray(score + 1.3 * cone + 1.1 * depth_from_skin, dtype=np.float32)


def _ducts(rng: np.random.Generator, shape: tuple[int, ...], nipple: tuple[float, float, float]) -> FloatArray:
    """Branching ducts as a blurred density in [0, 1], drawn as random walks that fork on the way back."""
    density = np.zeros(shape, np.float32)
    origin = np.array([FIELD_OF_VIEW_MM / 2, FIELD_OF_VIEW_MM * _ANTERIOR_SHARE, shape[2] * FINE_SPACING_MM / 2])
    tips = [(np.add(nipple, (0.0, 6.0, 0.0)), _unit(rng.normal((0, 1.3, 0), 0.6)), 0) for _ in range(12)]
    points = []
    while tips:
        position, direction, generation = tips.pop()
        for _ in range(int(rng.uniform(10, 22))):
            direction = _unit(direction + rng.normal(0, 0.16, 3))
            position = position + direction * FINE_SPACING_MM
            points.append(position)
        if generation < 3:
            tips += [(position, _unit(direction + rng.normal(0, 0.55, 3)), generation + 1) for _ in range(2)]
    index = np.floor((np.array(points) + origin) / FINE_SPACING_MM).astype(int)
    index = index[np.all((index >= 0) & (index < shape), axis=1)]
    density[tuple(index.T)] = 1.0
    return np.asarray(np.clip(gaussian_filter(density, 1.3) * 9, 0, 1), dtype=np.float32)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))


def _paint_glands(tissue: NDArray[np.uint8], breast: NDArray[np.bool_], score: FloatArray, share: float) -> FloatArray:
    """Turn the highest-scoring share of breast fat into gland; return the soft membership in [0, 1]."""
    threshold = float(np.quantile(score[breast], 1 - share))
    membership = np.where(breast, 1 / (1 + np.exp(-np.clip((score - threshold) / 0.12, -30, 30))), 0)
    tissue[breast & (score > threshold)] = Tissue.FIBROGLANDULAR
    return membership.astype(np.float32)


def _repaint_glands(
    tissue: NDArray[np.uint8], breast: NDArray[np.bool_], score: FloatArray, share_change: float
) -> FloatArray:
    """Paint more or fewer glands, so that the labelled share changes by a factor; vessels stay."""
    fixed = breast & (tissue == Tissue.VESSEL)
    free = breast & ~fixed
    labelled = int((tissue[breast] == Tissue.FIBROGLANDULAR).sum()) + int(fixed.sum())
    share = (labelled * (1 + share_change) - int(fixed.sum())) / int(free.sum())
    if not 0 < share < 1:
        raise RequestError(f"The glands cannot be changed by {share_change:+.0%}.", "Ask for less.")
    tissue[free] = Tissue.FAT
    return _paint_glands(tissue, free, score, share)


def _paint_vessels(rng: np.random.Generator, tissue: NDArray[np.uint8], breast: NDArray[np.bool_]) -> None:
    """A few thin vessels as random walks through breast fat."""
    candidates = np.argwhere(breast & (tissue == Tissue.FAT))
    for _ in range(int(rng.integers(4, 9))):
        position = candidates[rng.integers(len(candidates))].astype(float)
        direction = _unit(rng.standard_normal(3) * (1, 1, 1.5))
        for _ in range(int(rng.integers(30, 70))):
            direction = _unit(direction + rng.normal(0, 0.15, 3))
            position += direction
            i, j, k = np.round(position).astype(int)
            block = (slice(max(i, 0), i + 2), slice(max(j, 0), j + 2), slice(max(k, 0), k + 2))
            where = (tissue[block] == Tissue.FAT) & breast[block]
            tissue[block][where] = Tissue.VESSEL


def _water_fraction(tissue: NDArray[np.uint8], gland: FloatArray) -> FloatArray:
    """Water share per voxel: tissue values, gland blended by membership, borders softened by 0.6 voxel."""
    table = np.zeros(max(Tissue) + 1, np.float32)
    for kind, pool in WATER_POOLS.items():
        table[kind] = pool.water_fraction
    water = table[tissue]
    fatty = np.isin(tissue, (Tissue.FAT, Tissue.FIBROGLANDULAR))
    fat, glandular = table[Tissue.FAT], table[Tissue.FIBROGLANDULAR]
    water[fatty] = fat + (glandular - fat) * gland[fatty]
    return np.asarray(water, dtype=np.float32)


def _resample_labels(labels: Volume, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Sample a label map, nearest neighbour, so that its front lies 20 mm inside the field of view."""
    world = np.argwhere(labels.voxels > 0) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    centre = np.array(
        [(low[0] + high[0]) / 2, high[1] + 20 - FIELD_OF_VIEW_MM * _ANTERIOR_SHARE, (low[2] + high[2]) / 2]
    )
    target = _affine(shape)
    target[:3, 3] += centre
    to_source = np.linalg.inv(labels.affine) @ target
    sampled = np.zeros(shape, np.uint8)
    grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape[:2]), indexing="ij"), axis=-1).reshape(-1, 2)
    for k in range(shape[2]):
        points = np.column_stack([grid, np.full(len(grid), k)]) @ to_source[:3, :3].T + to_source[:3, 3]
        sampled[:, :, k] = map_coordinates(labels.voxels, points.T, order=0, cval=0).reshape(shape[:2])
    return sampled
