"""Where a stack of slices lies in the patient: order, spacing, and the voxel-to-RAS affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cfmri_core.dicom.parser import number_of, numbers_of
from cfmri_core.errors import GeometryError

#: DICOM's patient axes point left, posterior, superior; those of `Volume` right, anterior, superior.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

#: Slices nearer than this are at one position, in millimetres.
SAME_POSITION_MM = 0.01
#: Direction cosines may differ by this much between slices, and be this far from orthonormal.
DIRECTION_TOLERANCE = 1e-4
#: Gaps, and offsets across the normal, may differ by this share of the gap.
GAP_TOLERANCE = 0.01
#: A stack is refused when each slice is shifted against the one before by more than this share of the gap.
SHEAR_TOLERANCE = 2e-3
#: Wider gaps mean missing slices: as multiples of SpacingBetweenSlices or, without it, SliceThickness.
WIDEST_GAP = {"SpacingBetweenSlices": 1.5, "SliceThickness": 2.5}


@dataclass(frozen=True)
class Plane:
    """One slice in DICOM's patient coordinates (LPS, millimetres).

    Attributes:
        position: Centre of the first voxel, shape ``(3,)``.
        directions: Unit vectors along a row and down a column, shape ``(2, 3)``.
        spacing: Distance between voxel centres along a row and down a column, shape ``(2,)``.
    """

    position: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing: NDArray[np.float64]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slice, right-handed with the directions."""
        return np.asarray(np.cross(self.directions[0], self.directions[1]), dtype=np.float64)


def plane_of(header: Dataset) -> Plane:
    """Read the plane of a classic slice header.

    Raises:
        GeometryError: Position, orientation or spacing is absent or nonsense.

    Source: DICOM PS3.3 C.7.6.2.
    """
    position = _vector(header, "ImagePositionPatient", 3)
    directions = _vector(header, "ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if np.any(np.abs(lengths - 1) > 1e-2):
        raise GeometryError("ImageOrientationPatient does not hold unit vectors.")
    directions = directions / lengths[:, None]
    if abs(directions[0] @ directions[1]) > DIRECTION_TOLERANCE:
        raise GeometryError("ImageOrientationPatient: rows and columns are not at right angles.")
    spacing = _vector(header, "PixelSpacing", 2)[::-1]  # DICOM names the distance between rows first
    if np.any(spacing <= 0):
        raise GeometryError("PixelSpacing is not positive.")
    return Plane(position, directions, spacing)


def slice_order(planes: Sequence[Plane]) -> list[int]:
    """Return indices that sort parallel slices along their normal.

    Positions decide, because InstanceNumber is wrong often enough in archives to flip a breast.

    Raises:
        GeometryError: The slices are not parallel, or differ in spacing.
    """
    first = planes[0]
    for plane in planes:
        if np.any(np.abs(plane.directions - first.directions) > DIRECTION_TOLERANCE):
            raise GeometryError("The slices are not parallel.", "A localiser? Give one stack of parallel slices.")
        if np.any(np.abs(plane.spacing - first.spacing) > 1e-4 * first.spacing):
            raise GeometryError("The slices differ in pixel spacing.")
    distances = distances_along_normal(planes)
    return sorted(range(len(planes)), key=lambda index: (distances[index], index))


def distances_along_normal(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Return each slice's signed distance from the origin along the first one's normal, in millimetres."""
    normal = planes[0].normal
    return np.array([plane.position @ normal for plane in planes])


def nominal_gap_mm(header: Dataset) -> tuple[float, float] | None:
    """Return the distance between slices that a header states and the widest one that fits it, or ``None``."""
    for keyword, factor in WIDEST_GAP.items():
        gap = number_of(header, keyword)
        if gap is not None and np.isfinite(gap) and abs(gap) > 0:
            return abs(gap), factor * abs(gap)
    return None


def affine_from_planes(planes: Sequence[Plane], nominal_gap: tuple[float, float] | None = None) -> NDArray[np.float64]:
    """Build the voxel-to-RAS affine of a stack in slice order.

    Voxel axes are i along a row, j down the rows, k from slice to slice; k runs along the normal, so
    the axes are right-handed.

    Args:
        planes: Parallel slices, sorted by `slice_order`.
        nominal_gap: From `nominal_gap_mm`: the spacing of a single slice (1 mm if unknown), and the
            measure for missing slices.

    Returns:
        Affine, float64, shape ``(4, 4)``, millimetres, RAS+.

    Raises:
        GeometryError: Gaps differ by more than 1 % (a missing slice; the message names the position),
            all are much wider than stated, or the stack is sheared.

    Source: DICOM PS3.3 C.7.6.2.1.1.
    """
    first = planes[0]
    step = _slice_step(planes, nominal_gap) if len(planes) > 1 else first.normal * (nominal_gap or (1.0,))[0]
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing[0]
    affine[:3, 1] = first.directions[1] * first.spacing[1]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    return LPS_TO_RAS @ affine


def _slice_step(planes: Sequence[Plane], nominal_gap: tuple[float, float] | None) -> NDArray[np.float64]:
    distances = distances_along_normal(planes)
    gaps = np.diff(distances)
    gap = float(np.median(gaps))
    if gap < SAME_POSITION_MM:
        raise GeometryError("Several slices are at one position.")
    wrong = np.abs(gaps - gap) > max(GAP_TOLERANCE * gap, 1e-3)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise GeometryError(
            f"Slices are missing or misplaced: the gap after the slice at {distances[index]:.2f} mm along the normal "
            f"is {gaps[index]:.2f} mm, the usual one {gap:.2f} mm.",
            "Give the whole series.",
        )
    if nominal_gap and gap > nominal_gap[1]:
        raise GeometryError(
            f"Slices are missing: they are {gap:.2f} mm apart, where the header says {nominal_gap[0]:.2f} mm.",
            "Give the whole series.",
        )
    step = (planes[-1].position - planes[0].position) / (len(planes) - 1)
    _require_straight(planes, step, gap)
    return np.asarray(step, dtype=np.float64)


def _require_straight(planes: Sequence[Plane], step: NDArray[np.float64], gap: float) -> None:
    normal = planes[0].normal
    if np.linalg.norm(step - normal * (step @ normal)) > SHEAR_TOLERANCE * gap:
        raise GeometryError("The stack is sheared: slices are shifted sideways against each other.")
    expected = planes[0].position + np.arange(len(planes))[:, None] * step
    offsets = np.linalg.norm(np.array([plane.position for plane in planes]) - expected, axis=1)
    if offsets.max() > max(GAP_TOLERANCE * gap, 2e-3):
        raise GeometryError(f"Slice {int(offsets.argmax()) + 1} is {offsets.max():.2f} mm off the line of the others.")


def _vector(header: Dataset, keyword: str, length: int) -> NDArray[np.float64]:
    values = np.array(numbers_of(header, keyword))
    if len(values) != length or not np.all(np.isfinite(values)):
        raise GeometryError(
            f"{keyword} is absent or unreadable, so the slice cannot be placed in the patient.",
            "Only images with a patient position form a volume.",
        )
    return values
