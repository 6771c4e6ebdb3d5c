"""Where a gadolinium agent has gone a minute or two after it was given: the image on which lesions are read.

On the native scan a mass in fibroglandular tissue has nearly the tissue's own T1 and cannot be told from it. Readers
draw lesions on contrast-enhanced series. Relaxation by the agent is physics; how much of it each tissue holds is
invented.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from cfmri_core.simulation.anatomy import FINE_SPACING_MM, Anatomy, correlated_noise
from cfmri_core.simulation.tissues import Tissue

#: Longitudinal relaxivity of gadopentetate in plasma at 37 degrees C, at 1.5 T and 3 T, per s and mmol/l.
#: Source: Rohrer et al. 2005, Invest Radiol 40:715.
RELAXIVITY = (4.1, 3.7)
#: Concentrations in mmol/l, drawn uniformly per subject; fibroglandular tissue varies in space too.
BLOOD, BACKGROUND, LESION = (0.7, 1.1), (0.03, 0.15), (0.35, 0.75)
#: Other tissue holds this share of the background's concentration.
_OTHER_SHARE = 0.7
#: How a lesion's concentration varies inside: lowered towards the middle by up to this share (a rim), and texture.
_LARGEST_DIP, _TEXTURE = 0.5, 0.12
#: Enhancement of the tissue around a lesion: share of the lesion's at its edge, and how far it falls to 1/e, in mm.
HALO_SHARE, HALO_REACH_MM = 0.35, 3.0


def relaxivity_at(field_strength_t: float) -> float:
    """Relaxivity at a field strength, by a power law through the two tabulated fields, per s and mmol/l."""
    low, high = RELAXIVITY
    return float(low * (high / low) ** np.log2(field_strength_t / 1.5))


def agent_mmol_per_l(anatomy: Anatomy, seed: int) -> NDArray[np.float32]:
    """Return the agent's concentration in water per voxel, shape of the anatomy, in mmol/l.

    Args:
        anatomy: With or without lesions; what is drawn for everything else does not depend on them.
        seed: The same seed gives the same concentrations.
    """
    rng = np.random.default_rng((seed, 12))
    blood, background = rng.uniform(*BLOOD), rng.uniform(*BACKGROUND)
    pattern = np.clip(1 + 0.5 * correlated_noise(rng, anatomy.tissue.shape, 6.0), 0.2, 2.5)
    agent = np.full(anatomy.tissue.shape, _OTHER_SHARE * background)
    gland = anatomy.tissue == Tissue.FIBROGLANDULAR
    agent[gland] = background * pattern[gland]
    agent[anatomy.tissue == Tissue.VESSEL] = blood
    parts, count = label(anatomy.tissue == Tissue.LESION)
    texture = correlated_noise(rng, anatomy.tissue.shape, 2.0)
    for number in range(1, count + 1):
        agent = _with_lesion(rng, agent, parts == number, texture, anatomy)
    return np.asarray(agent, dtype=np.float32)


def _with_lesion(
    rng: np.random.Generator,
    agent: NDArray[np.float64],
    lesion: NDArray[np.bool_],
    texture: NDArray[np.float32],
    anatomy: Anatomy,
) -> NDArray[np.float64]:
    level, dip = rng.uniform(*LESION), _LARGEST_DIP * rng.random()
    inside_mm = distance_transform_edt(lesion) * FINE_SPACING_MM
    depth = inside_mm / max(float(inside_mm.max()), 1e-6)
    own = level * (1 - dip * depth) * (1 + _TEXTURE * texture)
    halo = HALO_SHARE * level * np.exp(-distance_transform_edt(~lesion) * FINE_SPACING_MM / HALO_REACH_MM)
    around = np.maximum(agent, np.where(anatomy.breast, halo, 0.0))
    return np.where(lesion, own, around)
