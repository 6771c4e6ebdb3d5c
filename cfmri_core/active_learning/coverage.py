"""How far the acquisition of a case lies from those of the labelled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmri_core.acquisition import PARAMETERS, AcquisitionParameters
from cfmri_core.simulation.protocols import RANGES

#: Half of a mismatch: nobody knows whether an unknown value is another one.
_UNKNOWN = 0.5


def distances_to_nearest(
    cases: Sequence[AcquisitionParameters], labelled: Sequence[AcquisitionParameters]
) -> NDArray[np.float64]:
    """Return how unlike each case is to the nearest labelled one, shape ``(cases,)``: 1 for all while none is labelled.

    A distance is the mean over the parameters of one from 0 to 1. Text and field strength are the same (0) or another
    (1). Other numbers differ by their share of the published range of the parameter, at most 1. A value that only one
    of the two knows counts half.
    """
    columns, nearest = _columns(cases), np.ones(len(cases))
    for other in set(labelled):
        np.minimum(nearest, _distances(columns, other), out=nearest)
    return nearest


def _columns(cases: Sequence[AcquisitionParameters]) -> Mapping[str, NDArray[Any]]:
    """Return the values of each parameter, shape ``(cases,)``: numbers with NaN, others with ``None`` for unknown."""
    return {
        item.name: np.array([getattr(case, item.name) for case in cases], float if item.name in RANGES else object)
        for item in PARAMETERS
    }


def _distances(columns: Mapping[str, NDArray[Any]], other: AcquisitionParameters) -> NDArray[np.float64]:
    """Return the distance of each case to an acquisition, shape ``(cases,)``."""
    differences = [_differences(name, values, getattr(other, name)) for name, values in columns.items()]
    return np.asarray(np.stack(differences, axis=1).mean(axis=1))


def _differences(name: str, values: NDArray[Any], other: Any) -> NDArray[np.float64]:
    is_number = name in RANGES
    is_unknown = np.isnan(values) if is_number else np.equal(values, np.array(None))
    if other is None:
        return np.where(is_unknown, 0.0, _UNKNOWN)
    if is_number:
        low, high = RANGES[name]
        apart = np.minimum(1.0, np.abs(values - float(other)) / (high - low))
    else:
        apart = np.not_equal(values, other).astype(np.float64)
    return np.where(is_unknown, _UNKNOWN, apart)
