"""The intensity scale a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

#: Any real-valued array.
RealArray = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Normalisation:
    """Map two percentiles of a *volume* to two fixed values, linearly and without clipping.

    One scale per volume, not per slice: a scale per slice gives neighbouring slices another gain
    and is a cause of flicker through the stack (the paper's editor normalises per slice).

    Attributes:
        low_percentile: Percentile that becomes `low_value`, in [0, 100].
        high_percentile: Percentile that becomes `high_value`, in [0, 100].
        low_value: Value the low percentile is mapped to.
        high_value: Value the high percentile is mapped to.
    """

    low_percentile: float = 10.0
    high_percentile: float = 99.0
    low_value: float = 0.0
    high_value: float = 1.0

    def bounds(self, intensities: RealArray) -> tuple[float, float]:
        """Return the two percentiles of an array; they never coincide."""
        low, high = np.percentile(intensities, (self.low_percentile, self.high_percentile))
        return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))

    def apply(self, intensities: RealArray, bounds: tuple[float, float]) -> NDArray[np.float32]:
        """Return scanner intensities on the network's scale, float32, same shape."""
        low, high = bounds
        gain = (self.high_value - self.low_value) / (high - low)
        scaled = (intensities.astype(np.float32) - low) * gain + self.low_value
        return scaled.astype(np.float32)

    def undo(self, normalised: RealArray, bounds: tuple[float, float]) -> NDArray[np.float32]:
        """Return network values in scanner intensities, float32, same shape."""
        low, high = bounds
        gain = (high - low) / (self.high_value - self.low_value)
        return ((normalised.astype(np.float32) - self.low_value) * gain + low).astype(np.float32)

    def to_network(self, images: Tensor) -> Tensor:
        """Normalised intensity (low percentile 0, high 1) on the network's scale."""
        return images * (self.high_value - self.low_value) + self.low_value

    def from_network(self, images: Tensor) -> Tensor:
        """Undo `to_network`."""
        return (images - self.low_value) / (self.high_value - self.low_value)

    def to_json(self) -> dict[str, float]:
        """Return the constants as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> Normalisation:
        """Build from what `to_json` returned."""
        return cls(**{name: float(value) for name, value in values.items()})
