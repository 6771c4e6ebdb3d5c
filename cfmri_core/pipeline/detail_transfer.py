"""From the working resolution of a network to the scan's own matrix: change there, detail from the scan.

Detail that the network never saw follows the contrast around it: where an edit doubles the differences
between tissues, it doubles the fine ones too.

Source: He & Sun, Fast Guided Filter, arXiv 1505.00996 (local linear coefficients computed at low
resolution and applied at full resolution).
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F  # noqa: N812 (the customary name)
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.slices import SliceStack

#: Half the side of the window, in pixels of the working resolution.
_REACH = 2
#: Contrast, squared, below which a window says nothing about a gain, which then is 1; in normalised intensity.
_LEAST_VARIANCE = 0.01
_LARGEST_GAIN = 3.0


def change_at_native_size(
    native: NDArray[np.float32], images: Tensor, edited: Tensor, stack: SliceStack
) -> NDArray[np.float32]:
    """Return what an edit changes on the scan's own matrix.

    Args:
        native: Slices of the scan, normalised intensity, shape ``(slices, rows, columns)``.
        images: The same as the network saw them, shape ``(slices, 1, size, size)``.
        edited: What the network made of them, same shape.
        stack: How the two grids relate.

    Returns:
        Shape of ``native``; zero where ``edited`` is ``images``.
    """
    change, gain = (stack.at_native_size(one)[:, 0] for one in (edited - images, _gain(images, edited)))
    detail = native - stack.at_native_size(images)[:, 0]
    return np.asarray(change + (gain - 1) * detail, dtype=np.float32)


def _gain(images: Tensor, edited: Tensor) -> Tensor:
    """Slope of the local regression of the edited on the source image, drawn to 1 where there is no contrast."""
    mean, edited_mean = _window_mean(images), _window_mean(edited)
    covariance = _window_mean(images * edited) - mean * edited_mean
    variance = _window_mean(images * images) - mean * mean
    return ((covariance + _LEAST_VARIANCE) / (variance + _LEAST_VARIANCE)).clamp(0, _LARGEST_GAIN)


def _window_mean(images: Tensor) -> Tensor:
    padded = F.pad(images, (_REACH,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * _REACH + 1, stride=1)
