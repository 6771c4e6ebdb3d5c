"""Simulator settings: what is invented or chosen about coils, noise, scanner looks and tissue values.

`DEFAULT` is what every shipped model was trained on. `SHIFTED` is for evaluation only: other coils, more noise, other
looks of the same scanner models, and tissue values of other sources. A model that does as well there has
learned more than one simulator's habits. It also stands for a site whose scanners `cfmri calibrate scanners` gets to
know from scans of other subjects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from cfmri_core.errors import RequestError
from cfmri_core.simulation.tissues import (
    FAT_T1_MS,
    FAT_T1_SPREAD,
    FAT_T2_STAR_MS,
    WATER_POOLS,
    Tissue,
    WaterPool,
)


@dataclass(frozen=True)
class Style:
    """Invented look of one scanner model.

    Attributes:
        window: Strength of the k-space window in [0, 1]: 0 leaves Gibbs ringing, 1 is a Hann window.
        bias: Remaining receive inhomogeneity in [0, 1] after the maker's own correction.
        residual_fat: Share of the fat signal that fat suppression leaves, by scan option.
        noise: Noise relative to the reference.
    """

    window: float
    bias: float
    residual_fat: float
    noise: float


@dataclass(frozen=True)
class Coil:
    """One receive element, a Gaussian over the axial plane (invented).

    Attributes:
        side: 1 for the patient's left, -1 for the right.
        lateral: Distance of the centre from the midline, ends of what is drawn, in half fields of view.
        back: Centre towards the back, as a share of the field of view.
        width: Twice the variance of the Gaussian, in the same units.
    """

    side: int
    lateral: tuple[float, float]
    back: float
    width: float


@dataclass(frozen=True)
class Setting:
    """One simulated world.

    Attributes:
        name: Written into every study.
        declaration: What is invented or chosen in it, in one sentence.
        styles: Look by scanner model.
        other_style: Look of any other model.
        coils: Receive elements.
        coil_floor: Sensitivity everywhere, relative to the peak of one element.
        b1_tilt: Relative flip angle at 1.5 T, from the middle to the left edge.
        b1_ripple: Standard deviation of its smooth variation.
        reference_noise: Noise of one channel at 1.5 T for a 2.34 x 2.34 x 2 mm voxel and TR 5 ms, in units of signal.
        water_pools: Water by tissue.
        fat_t1_ms: T1 of fat at 1.5 T and 3 T.
        fat_t1_spread: Between-subject standard deviation of it, as a share.
        fat_t2_star_ms: T2* of fat at 1.5 T and 3 T.
    """

    name: str
    declaration: str
    styles: Mapping[str, Style]
    other_style: Style
    coils: tuple[Coil, ...]
    coil_floor: float
    b1_tilt: float
    b1_ripple: float
    reference_noise: float
    water_pools: Mapping[Tissue, WaterPool]
    fat_t1_ms: tuple[float, float]
    fat_t1_spread: float
    fat_t2_star_ms: tuple[float, float]


#: Residual fat stays inside the 6-21 % that reproduces Duke's measured tissue contrast.
DEFAULT = Setting(
    name="default",
    declaration="Invented: anatomy, k-space window, receive bias, residual fat and noise level of each scanner model "
    "and scan option.",
    styles={
        "SIGNA HDx": Style(window=0.25, bias=0.55, residual_fat=0.085, noise=1.0),
        "Signa HDxt": Style(window=0.40, bias=0.35, residual_fat=0.150, noise=1.0),
        "Optima MR450w": Style(window=0.60, bias=0.20, residual_fat=0.145, noise=0.8),
        "Avanto": Style(window=0.85, bias=0.75, residual_fat=0.150, noise=1.15),
        "TrioTim": Style(window=0.75, bias=0.90, residual_fat=0.150, noise=0.95),
    },
    other_style=Style(window=0.5, bias=0.5, residual_fat=0.11, noise=1.0),
    coils=(Coil(1, (0.42, 0.55), 0.25, 0.45), Coil(-1, (0.42, 0.55), 0.25, 0.45)),
    coil_floor=0.25,
    b1_tilt=-0.11,
    b1_ripple=0.05,
    reference_noise=0.0009,
    water_pools=WATER_POOLS,
    fat_t1_ms=FAT_T1_MS,
    fat_t1_spread=FAT_T1_SPREAD,
    fat_t2_star_ms=FAT_T2_STAR_MS,
)


def _with_t1(tissue: Tissue, t1_ms: tuple[float, float], spread: float) -> WaterPool:
    return dataclasses.replace(WATER_POOLS[tissue], t1_ms=t1_ms, t1_spread=spread)


#: T1 of fibroglandular tissue: Edden 2010 (JMRI 32:982) at 3 T, at 1.5 T scaled as Rakow-Penner's. T1 of fat and
#: muscle: de Bazelaire 2004 (Radiology 230:652). The rest of the tissue values as in `DEFAULT`.
SHIFTED = Setting(
    name="shifted",
    declaration="Invented, and other than in the simulations that models are trained on: four receive elements, 40 % "
    "more noise, k-space window, receive bias, residual fat and noise level of each scanner model. Other sources for "
    "T1 of fibroglandular tissue (Edden 2010), fat and muscle (de Bazelaire 2004). Invented as always: anatomy.",
    styles={
        "SIGNA HDx": Style(window=0.40, bias=0.35, residual_fat=0.105, noise=0.9),
        "Signa HDxt": Style(window=0.55, bias=0.55, residual_fat=0.130, noise=1.1),
        "Optima MR450w": Style(window=0.45, bias=0.40, residual_fat=0.125, noise=0.9),
        "Avanto": Style(window=0.70, bias=0.55, residual_fat=0.170, noise=1.0),
        "TrioTim": Style(window=0.90, bias=0.70, residual_fat=0.135, noise=1.1),
    },
    other_style=Style(window=0.6, bias=0.6, residual_fat=0.13, noise=1.0),
    coils=(
        Coil(1, (0.70, 0.85), 0.35, 0.30),
        Coil(1, (0.20, 0.30), 0.05, 0.25),
        Coil(-1, (0.20, 0.30), 0.05, 0.25),
        Coil(-1, (0.70, 0.85), 0.35, 0.30),
    ),
    coil_floor=0.35,
    b1_tilt=0.06,
    b1_ripple=0.08,
    reference_noise=0.00126,
    water_pools={
        **WATER_POOLS,
        Tissue.FAT: _with_t1(Tissue.FAT, (1472.0, 1680.0), 0.107),
        Tissue.FIBROGLANDULAR: _with_t1(Tissue.FIBROGLANDULAR, (1472.0, 1680.0), 0.107),
        Tissue.MUSCLE: _with_t1(Tissue.MUSCLE, (856.0, 898.0), 0.04),
    },
    fat_t1_ms=(343.0, 382.0),
    fat_t1_spread=0.07,
    fat_t2_star_ms=FAT_T2_STAR_MS,
)

SETTINGS: Mapping[str, Setting] = {setting.name: setting for setting in (DEFAULT, SHIFTED)}


def setting_named(name: str) -> Setting:
    """Return a setting by name.

    Raises:
        RequestError: There is none of that name.
    """
    try:
        return SETTINGS[name]
    except KeyError:
        raise RequestError(f"'{name}' is not a simulator setting.", f"Use one of: {', '.join(SETTINGS)}.") from None
