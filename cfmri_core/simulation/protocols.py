"""Which acquisition parameters occur together: the published distribution of Duke-Breast-Cancer-MRI.

Counts and quantiles only (no patient rows), from the clinical table of Saha et al., Br J Cancer
2018;119:508-516 (TCIA, Duke-Breast-Cancer-MRI). 809 of 922 patients lie in these eight cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from cfmri_core.acquisition import AcquisitionParameters

_GE = "GE MEDICAL SYSTEMS"
_SIEMENS = "SIEMENS"
_GE_OPTIONS = r"FAST_GEMS\SAT_GEMS\MP_GEMS\PFP\FS"
_GE_ACCELERATED_OPTIONS = r"FAST_GEMS\SAT_GEMS\MP_GEMS\ACC_GEMS\PFP\FS"

#: The flip angle is 10 degrees in 95 % of the patients; the others lie between 7 and 12.
FLIP_ANGLE_DEG = 10.0
OTHER_FLIP_ANGLES_DEG = (7.0, 12.0)
SHARE_OF_OTHER_FLIP_ANGLES = 0.05


@dataclass(frozen=True)
class Cell:
    """One combination of scanner, field and options with the spread of its timing.

    Attributes:
        repetition_time_ms: 5, 50 and 95 % quantiles.
        echo_time_ms: 5, 50 and 95 % quantiles.
        timing_correlation: Pearson correlation of repetition and echo time.
        slice_thickness_mm: Patients per slice thickness.
    """

    manufacturer: str
    manufacturer_model: str
    field_strength_t: float
    scan_options: str
    patients: int
    repetition_time_ms: tuple[float, float, float]
    echo_time_ms: tuple[float, float, float]
    timing_correlation: float
    slice_thickness_mm: Mapping[float, int]


CELLS: tuple[Cell, ...] = (
    Cell(_GE, "SIGNA HDx", 3.0, _GE_OPTIONS, 219, (5.14, 5.52, 6.52), (2.36, 2.42, 2.53), 0.84,
         {2.0: 178, 1.1: 21, 1.2: 19}),
    Cell(_GE, "Signa HDxt", 1.5, _GE_ACCELERATED_OPTIONS, 137, (4.83, 4.98, 5.63), (2.24, 2.35, 2.64), 0.93,
         {2.0: 69, 2.2: 59, 1.1: 7, 1.2: 2}),
    Cell(_SIEMENS, "Avanto", 1.5, r"PFP\FS", 112, (4.27, 4.31, 4.44), (1.28, 1.36, 1.43), 0.89,
         {2.0: 93, 1.1: 11, 1.2: 5}),
    Cell(_GE, "Signa HDxt", 3.0, _GE_ACCELERATED_OPTIONS, 110, (5.14, 5.67, 6.51), (2.36, 2.54, 2.67), 0.67,
         {2.0: 63, 1.1: 21, 1.2: 13, 1.3: 10, 1.5: 3}),
    Cell(_GE, "Optima MR450w", 1.5, _GE_ACCELERATED_OPTIONS, 97, (5.17, 5.30, 5.48), (2.40, 2.48, 2.55), 0.58,
         {2.0: 44, 1.1: 30, 1.2: 16, 2.2: 4, 1.3: 3}),
    Cell(_GE, "SIGNA HDx", 1.5, _GE_OPTIONS, 53, (4.81, 4.94, 5.45), (2.25, 2.32, 2.58), 0.99,
         {2.0: 43, 2.2: 7, 1.2: 3}),
    Cell(_SIEMENS, "TrioTim", 3.0, r"PFP\SFS", 48, (3.70, 4.09, 4.09), (1.39, 1.44, 1.56), 0.18,
         {1.1: 34, 1.4: 6, 1.3: 4}),
    Cell(_SIEMENS, "Avanto", 1.5, r"PFP\SFS", 33, (4.26, 4.26, 4.26), (1.47, 1.50, 1.52), 0.0,
         {1.1: 27, 1.2: 4}),
)  # fmt: skip


def draw_protocol(rng: np.random.Generator, manufacturer: str | None = None) -> AcquisitionParameters:
    """Draw parameters as they occur together in the Duke table.

    Cells are drawn by their number of patients, timing between its 5 and 95 % quantiles with the
    cell's correlation, slice thickness by its counts.

    Args:
        rng: Source of randomness.
        manufacturer: Draw only from this manufacturer's cells.
    """
    cells = [cell for cell in CELLS if manufacturer in (None, cell.manufacturer)]
    weights = np.array([cell.patients for cell in cells], dtype=float)
    cell = cells[rng.choice(len(cells), p=weights / weights.sum())]
    rho = cell.timing_correlation
    first = rng.standard_normal()
    second = rho * first + np.sqrt(1 - rho**2) * rng.standard_normal()
    thicknesses = np.array(list(cell.slice_thickness_mm))
    counts = np.array(list(cell.slice_thickness_mm.values()), dtype=float)
    is_other = rng.random() < SHARE_OF_OTHER_FLIP_ANGLES
    return AcquisitionParameters(
        manufacturer=cell.manufacturer,
        manufacturer_model=cell.manufacturer_model,
        field_strength_t=cell.field_strength_t,
        scan_options=cell.scan_options,
        flip_angle_deg=round(rng.uniform(*OTHER_FLIP_ANGLES_DEG)) if is_other else FLIP_ANGLE_DEG,
        slice_thickness_mm=float(rng.choice(thicknesses, p=counts / counts.sum())),
        echo_time_ms=_quantile(cell.echo_time_ms, second),
        repetition_time_ms=_quantile(cell.repetition_time_ms, first),
    )


def _quantile(quantiles: tuple[float, float, float], normal_score: float) -> float:
    """Value at a standard-normal score, linear between the 5, 50 and 95 % quantiles and cut off there."""
    return round(float(np.interp(ndtr(normal_score), (0.05, 0.5, 0.95), quantiles)), 3)


def _typical(cell: Cell) -> AcquisitionParameters:
    thickness = max(cell.slice_thickness_mm, key=lambda value: cell.slice_thickness_mm[value])
    return AcquisitionParameters(
        manufacturer=cell.manufacturer,
        manufacturer_model=cell.manufacturer_model,
        field_strength_t=cell.field_strength_t,
        scan_options=cell.scan_options,
        flip_angle_deg=FLIP_ANGLE_DEG,
        slice_thickness_mm=thickness,
        echo_time_ms=cell.echo_time_ms[1],
        repetition_time_ms=cell.repetition_time_ms[1],
    )


#: Named protocols for ``--preset``: the medians of the cells.
PRESETS: Mapping[str, AcquisitionParameters] = {
    "ge-hdx-3t": _typical(CELLS[0]),
    "ge-hdxt-1.5t": _typical(CELLS[1]),
    "siemens-avanto-1.5t": _typical(CELLS[2]),
    "ge-hdxt-3t": _typical(CELLS[3]),
    "ge-mr450w-1.5t": _typical(CELLS[4]),
    "ge-hdx-1.5t": _typical(CELLS[5]),
    "siemens-trio-3t": _typical(CELLS[6]),
    "siemens-avanto-1.5t-sfs": _typical(CELLS[7]),
}
