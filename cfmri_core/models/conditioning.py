"""Encode acquisition parameters as the condition vector of a network, and decode its blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import AcquisitionError
from cfmri_core.io.json_text import number

CATEGORICAL = ("field_strength_t", "manufacturer_model", "scan_options")
CONTINUOUS = ("flip_angle_deg", "slice_thickness_mm", "echo_time_ms", "repetition_time_ms")

#: Order of the blocks: that of the paper, whose features are sorted by their names in its table.
#: `manufacturer` is not encoded, because the scanner model determines it.
ATTRIBUTES = (
    "field_strength_t",
    "flip_angle_deg",
    "manufacturer_model",
    "scan_options",
    "slice_thickness_mm",
    "echo_time_ms",
    "repetition_time_ms",
)

#: How far outside the trained range a value is still told apart; 1 is the end of the range.
EXTRAPOLATION_LIMIT = 1.5

#: How a continuous attribute becomes columns, see `ConditionSpec`.
SCALINGS = ("range", "maximum")

Category = str | float


@dataclass(frozen=True)
class ConditionSpec:
    """What the columns of a condition vector mean.

    A categorical attribute is a one-hot block. A continuous one is, by `scaling`,

    - ``range``: two columns, presence (1) and the value mapped linearly from its range to [-1, 1];
    - ``maximum``: one column, the value divided by the upper end of its range, as in the code of
      the paper (arXiv 2410.23835). A value near 0 is then hard to tell from an unknown one.

    An unknown attribute is a block of zeros, so that the zero vector is the unconditional one.

    Attributes:
        categories: Known values of each categorical attribute, in column order.
        ranges: Trained range of each continuous attribute, in the attribute's unit.
        scaling: One of `SCALINGS`.

    Raises:
        ValueError: An attribute is missing, has no or repeated categories, or an empty range; the
            scaling is unknown; or a maximum to divide by is not positive.
    """

    categories: Mapping[str, tuple[Category, ...]]
    ranges: Mapping[str, tuple[float, float]]
    scaling: str = "range"

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"scaling is '{self.scaling}', not one of {SCALINGS}.")
        if set(self.categories) != set(CATEGORICAL) or set(self.ranges) != set(CONTINUOUS):
            raise ValueError(f"A condition needs categories for {CATEGORICAL} and ranges for {CONTINUOUS}.")
        for name, values in self.categories.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"The categories of {name} are empty or repeated: {values}.")
        for name, (low, high) in self.ranges.items():
            if not low <= high:
                raise ValueError(f"The range of {name} is empty: {low} to {high}.")
            if self.scaling == "maximum" and not 0 < high < math.inf:
                raise ValueError(f"The range of {name} ends at {high}, which nothing can be divided by.")

    @property
    def blocks(self) -> Mapping[str, slice]:
        """Columns of each attribute, in the order of `ATTRIBUTES`."""
        per_value = 2 if self.scaling == "range" else 1
        blocks, start = {}, 0
        for name in ATTRIBUTES:
            stop = start + (len(self.categories[name]) if name in self.categories else per_value)
            blocks[name] = slice(start, stop)
            start = stop
        return blocks

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.blocks[ATTRIBUTES[-1]].stop)

    def encode(self, parameters: AcquisitionParameters) -> Tensor:
        """Return the condition vector, float32, shape ``(width,)``.

        A category that is not in the list is unknown to the network and encoded as such; a value
        outside its range is clamped, see `to_unit`.
        """
        vector = torch.zeros(self.width)
        for name, block in self.blocks.items():
            value = getattr(parameters, name)
            if value is None:
                continue
            if name in self.ranges:
                vector[block.start : block.stop - 1] = 1.0
                vector[block.stop - 1] = self.to_unit(name, float(value))
            elif value in self.categories[name]:
                vector[block.start + self.categories[name].index(value)] = 1.0
        return vector

    def encode_all(self, parameters: Iterable[AcquisitionParameters]) -> Tensor:
        """Return one condition vector per item, float32, shape ``(items, width)``."""
        return torch.stack([self.encode(item) for item in parameters])

    def to_unit(self, name: str, value: float) -> float:
        """Map a continuous value from its range to [-1, 1], or to a share of its maximum.

        Both are clamped to `EXTRAPOLATION_LIMIT` in size.
        """
        zero, unit = self._zero_and_unit(name)
        return max(-EXTRAPOLATION_LIMIT, min(EXTRAPOLATION_LIMIT, (value - zero) / unit))

    def from_unit(self, name: str, unit_value: float) -> float:
        """Undo `to_unit`: return the value in the attribute's unit."""
        zero, unit = self._zero_and_unit(name)
        return zero + unit * unit_value

    def drop_attributes(self, batch: Tensor, keep: Tensor) -> Tensor:
        """Make attributes unknown.

        Args:
            batch: Condition vectors, shape ``(batch, width)``.
            keep: Which attributes stay, bool, shape ``(batch, n_attributes)``, in the order of
                `ATTRIBUTES`; a row of False gives the unconditional vector.

        Returns:
            Condition vectors, same shape.
        """
        widths = torch.tensor([block.stop - block.start for block in self.blocks.values()], device=batch.device)
        return batch * keep.repeat_interleave(widths, dim=1).to(batch.dtype)

    def to_json(self) -> dict[str, Any]:
        """Return the meaning of the columns as JSON-ready values."""
        return {
            "categories": {name: list(self.categories[name]) for name in CATEGORICAL},
            "ranges": {name: list(self.ranges[name]) for name in CONTINUOUS},
            "scaling": self.scaling,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ConditionSpec:
        """Build from what `to_json` returned; without ``scaling``, as older folders are, it is ``range``."""
        return cls(
            {name: _categories(name, categories) for name, categories in values["categories"].items()},
            {name: (number(low), number(high)) for name, (low, high) in values["ranges"].items()},
            values.get("scaling", "range"),
        )

    @classmethod
    def from_parameters(cls, parameters: Sequence[AcquisitionParameters]) -> ConditionSpec:
        """Take the categories (sorted) and the ranges (smallest to largest) that occur.

        Raises:
            AcquisitionError: An attribute is unknown in every item.
        """
        found = {name: [getattr(item, name) for item in parameters] for name in ATTRIBUTES}
        known = {name: sorted({value for value in values if value is not None}) for name, values in found.items()}
        absent = [name for name, values in known.items() if not values]
        if absent:
            raise AcquisitionError(
                f"No study has a value for {', '.join(absent)}.",
                "A model needs each parameter in some study.",
                field=absent[0],
            )
        return cls(
            {name: tuple(known[name]) for name in CATEGORICAL},
            {name: (float(known[name][0]), float(known[name][-1])) for name in CONTINUOUS},
        )

    def _zero_and_unit(self, name: str) -> tuple[float, float]:
        low, high = self.ranges[name]
        if self.scaling == "maximum":
            return 0.0, high
        return (low + high) / 2, max((high - low) / 2, 1e-6 * max(1.0, abs(high)))


def _categories(name: str, values: Sequence[Any]) -> tuple[Category, ...]:
    if name == "field_strength_t":
        return tuple(number(value, 0) for value in values)
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"the categories of {name} are not a list of text")
    return tuple(values)
