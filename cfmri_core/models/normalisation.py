"""The intensity scale inside a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from cfmri_core.io.json_text import number
from cfmri_core.slices import HIGH_PERCENTILE, LOW_PERCENTILE


@dataclass(frozen=True)
class Normalisation:
    """Linear map from normalised intensity (0 and 1 are two percentiles of the volume) to network values.

    The percentiles are those of `cfmri_core.slices.IntensityScale`. A diffusion model wants values
    of a spread near that of its noise; the paper trains on normalised intensity as it is.

    Attributes:
        low_value: What 0 becomes.
        high_value: What 1 becomes.
        per_slice: Whether 0 and 1 are the percentiles of each slice, as in the code of the paper, and not those of the
            volume. Such networks edit neighbouring slices under another gain; the way back undoes the slice's own.

    Raises:
        ValueError: Both values are the same.
    """

    low_value: float = 0.0
    high_value: float = 1.0
    per_slice: bool = False

    def __post_init__(self) -> None:
        if self.low_value == self.high_value:
            raise ValueError(f"low_value and high_value are both {self.low_value}.")

    def to_network(self, normalised: Tensor) -> Tensor:
        """Return normalised intensities on the network's scale.

        Args:
            normalised: Slices, shape ``(batch, 1, rows, cols)``; any shape unless the scale is per slice.
        """
        if self.per_slice:
            low, span = _slice_scale(normalised)
            normalised = (normalised - low) / span
        return normalised * (self.high_value - self.low_value) + self.low_value

    def from_network(self, values: Tensor, source: Tensor | None = None) -> Tensor:
        """Return network values as normalised intensities.

        Args:
            values: Network values, same shape as ``source``.
            source: The slices that `to_network` was given; needed if the scale is per slice.

        Raises:
            ValueError: The scale is per slice and there is no source.
        """
        normalised = (values - self.low_value) / (self.high_value - self.low_value)
        if not self.per_slice:
            return normalised
        if source is None:
            raise ValueError("A scale per slice can only be undone with the slices it was taken from.")
        low, span = _slice_scale(source.to(values))
        return normalised * span + low

    def to_json(self) -> dict[str, float | bool]:
        """Return the constants as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> Normalisation:
        """Build from what `to_json` returned; what is absent, as in older folders, has its default."""
        return cls(**{name: value if name == "per_slice" else number(value) for name, value in values.items()})  # type: ignore[arg-type]


def _slice_scale(slices: Tensor) -> tuple[Tensor, Tensor]:
    """Low percentile and distance to the high one, shape ``(batch, 1, 1, 1)``; the distance is 1 if there is none."""
    wanted = torch.tensor([LOW_PERCENTILE / 100, HIGH_PERCENTILE / 100], dtype=slices.dtype, device=slices.device)
    # One slice at a time: torch.quantile refuses more than 16 million values at once.
    low, high = torch.stack([one.flatten().quantile(wanted) for one in slices])[..., None, None, None].unbind(1)
    span = high - low
    return low, torch.where(span > 0, span, torch.ones_like(span))
