"""The intensity scale inside a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Linear map from normalised intensity (0 and 1 are two percentiles of the volume) to network values.

    The percentiles are those of `cfmri_core.slices.IntensityScale`. A diffusion model wants values
    of a spread near that of its noise; the paper trains on normalised intensity as it is.

    Attributes:
        low_value: What 0 becomes.
        high_value: What 1 becomes.

    Raises:
        ValueError: Both values are the same.
    """

    low_value: float = 0.0
    high_value: float = 1.0

    def __post_init__(self) -> None:
        if self.low_value == self.high_value:
            raise ValueError(f"low_value and high_value are both {self.low_value}.")

    def to_network(self, normalised: Tensor) -> Tensor:
        """Return normalised intensities on the network's scale."""
        return normalised * (self.high_value - self.low_value) + self.low_value

    def from_network(self, values: Tensor) -> Tensor:
        """Return network values as normalised intensities."""
        return (values - self.low_value) / (self.high_value - self.low_value)

    def to_json(self) -> dict[str, float]:
        """Return the constants as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> Normalisation:
        """Build from what `to_json` returned."""
        return cls(**{name: float(value) for name, value in values.items()})
