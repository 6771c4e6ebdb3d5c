"""Tissues of the simulated breast and their relaxation at 1.5 T and 3 T.

Water pools: relaxation times with the between-subject spread of the cited sources. Fat: one pool
with a six-peak spectrum. Where the literature disagrees by more than its own spread the chosen
source is named; where none was found the value is marked as chosen, not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum


class Tissue(IntEnum):
    """Tissue of a voxel in an `Anatomy`."""

    AIR = 0
    SKIN = 1
    FAT = 2
    FIBROGLANDULAR = 3
    MUSCLE = 4
    CHEST_WALL = 5
    LUNG = 6
    VESSEL = 7
    LESION = 8


@dataclass(frozen=True)
class WaterPool:
    """Water of one tissue.

    Attributes:
        t1_ms: Longitudinal relaxation time at 1.5 T and 3 T, mean.
        t1_spread: Between-subject standard deviation of T1, as a share of the mean.
        t2_star_ms: Effective transverse relaxation time at 1.5 T and 3 T.
        proton_density: Proton density relative to free water.
        water_fraction: Share of the signal-giving protons that are water.
    """

    t1_ms: tuple[float, float]
    t1_spread: float
    t2_star_ms: tuple[float, float]
    proton_density: float
    water_fraction: float

    def t1_at(self, field_strength_t: float) -> float:
        """T1 in ms at a field strength, by a power law through the two tabulated fields."""
        return _between_fields(self.t1_ms, field_strength_t)

    def t2_star_at(self, field_strength_t: float) -> float:
        """T2* in ms at a field strength, by a power law through the two tabulated fields."""
        return _between_fields(self.t2_star_ms, field_strength_t)


def _between_fields(at_1_5_and_3: tuple[float, float], field_strength_t: float) -> float:
    low, high = at_1_5_and_3
    exponent = math.log(high / low) / math.log(2.0)
    return float(low * (field_strength_t / 1.5) ** exponent)


#: Fat pool. T1: Rakow-Penner 2006 (JMRI 23:87), breast fat. T2* at 3 T: Ryu 2014 (36.4 ms); at 1.5 T chosen.
FAT_T1_MS = (296.0, 367.0)
FAT_T1_SPREAD = 0.04
FAT_T2_STAR_MS = (45.0, 36.4)
FAT_PROTON_DENSITY = 0.95

#: Offsets from water in ppm and relative amplitudes of the fat peaks.
#: Source: Hamilton et al. 2011, NMR Biomed 24:784 (as used by the ISMRM fat-water toolbox).
FAT_PEAKS_PPM = (-3.80, -3.40, -2.60, -1.94, -0.39, 0.60)
FAT_PEAK_AMPLITUDES = (0.087, 0.693, 0.128, 0.004, 0.039, 0.048)

#: T1 of fibroglandular tissue: Rakow-Penner 2006. T1 of muscle: Gold 2004 (AJR 183:343). T1 of blood: Stanisz 2005
#: (MRM 54:507). T1 of lesions: SyMRI 2020 (Cancer Imaging, 10.1186/s40644-020-00365-4), taken as 3 T and scaled like
#: fibroglandular tissue. T2* of fibroglandular tissue at 3 T: Ryu 2014. Skin, lung, chest wall and every T2* at 1.5 T
#: are chosen, not measured. Water fractions follow Woodard & White 1986, Table I, in rounded form.
WATER_POOLS: dict[Tissue, WaterPool] = {
    Tissue.AIR: WaterPool((1000.0, 1000.0), 0.0, (1.0, 0.5), 0.0, 1.0),
    Tissue.SKIN: WaterPool((800.0, 900.0), 0.05, (16.0, 12.0), 0.65, 0.85),
    Tissue.FAT: WaterPool((1266.0, 1445.0), 0.065, (30.0, 22.4), 0.95, 0.06),
    Tissue.FIBROGLANDULAR: WaterPool((1266.0, 1445.0), 0.065, (30.0, 22.4), 0.95, 0.90),
    Tissue.MUSCLE: WaterPool((1130.0, 1420.0), 0.05, (28.0, 22.0), 0.80, 0.97),
    Tissue.CHEST_WALL: WaterPool((1000.0, 1200.0), 0.05, (22.0, 16.0), 0.60, 0.75),
    Tissue.LUNG: WaterPool((1200.0, 1350.0), 0.05, (1.8, 0.9), 0.20, 1.0),
    Tissue.VESSEL: WaterPool((1441.0, 1932.0), 0.05, (80.0, 50.0), 0.95, 1.0),
    Tissue.LESION: WaterPool((1412.0, 1612.0), 0.10, (40.0, 32.0), 0.97, 0.98),
}
