"""How far the acquisition of a case lies from those of the labelled ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import PARAMETERS, AcquisitionParameters
from cfmri_core.simulation.protocols import RANGES

#: Half of a mismatch: nobody knows whether an unknown value is another one.
_UNKNOWN = 0.5


def acquisition_distance(first: AcquisitionParameters, second: AcquisitionParameters) -> float:
    """Return how unlike two acquisitions are: the mean over the parameters of a distance from 0 to 1.

    Text and field strength are the same (0) or another (1). Other numbers differ by their share of the published range
    of the parameter, at most 1. A value that only one of them knows counts half.
    """
    return float(np.mean([_difference(item.name, first, second) for item in PARAMETERS]))


def distances_to_nearest(
    cases: Sequence[AcquisitionParameters], labelled: Sequence[AcquisitionParameters]
) -> NDArray[np.float64]:
    """Return each case's distance to the nearest labelled one, shape ``(cases,)``: 1 for all while none is labelled."""
    nearest = [min((acquisition_distance(case, other) for other in labelled), default=1.0) for case in cases]
    return np.array(nearest, dtype=np.float64)


def _difference(name: str, first: AcquisitionParameters, second: AcquisitionParameters) -> float:
    one, other = getattr(first, name), getattr(second, name)
    if one is None or other is None:
        return 0.0 if one is other else _UNKNOWN
    if name in RANGES:
        low, high = RANGES[name]
        return min(1.0, abs(float(one) - float(other)) / (high - low))
    return float(one != other)
