"""Which way rows and columns run in the slices that a network was trained on."""

from __future__ import annotations

from torch import Tensor

#: Where rows and columns of an axial slice run to. ``PL``: to the back and to the left, as cfmri lays slices out
#: (`cfmri_core.slices`). ``RA``: rows to the right and columns to the front, as the code of the paper loads them.
AXES = ("PL", "RA")


def check_axes(axes: str) -> None:
    """Check the name of a layout.

    Raises:
        ValueError: It is not one of `AXES`.
    """
    if axes not in AXES:
        raise ValueError(f"axes is '{axes}', not one of {AXES}.")


def turned(images: Tensor, axes: str) -> Tensor:
    """Turn slices from cfmri's layout to ``axes``, or back: the turn is its own inverse.

    Args:
        images: Slices, shape ``(batch, channels, size, size)``.
        axes: One of `AXES`.

    Returns:
        Slices, same shape; the tensor itself for ``PL``.
    """
    return images if axes == "PL" else images.transpose(-2, -1).flip(-2, -1)
