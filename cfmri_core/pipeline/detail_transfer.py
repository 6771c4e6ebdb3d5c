"""From the working resolution of a network to the scan's own matrix: change there, detail from the scan.

Detail that the network never saw follows the contrast around it: where an edit doubles the differences
between tissues, it doubles the fine ones too. The noise in it is another matter: it goes with the noise of the scan.

Source: He & Sun, Fast Guided Filter, arXiv 1505.00996 (local linear coefficients computed at low
resolution and applied at full resolution). Noise is told from detail by a local Wiener filter (Lim, Two-Dimensional
Signal and Image Processing, 1990, p. 548); the mean of detail is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F  # noqa: N812 (the customary name)
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor

from cfmri_core.pipeline.source_noise import TISSUE_INTENSITY, robust_spread
from cfmri_core.slices import SliceStack

#: Half the side of the window, in pixels of the working resolution.
_REACH = 2
#: Contrast, squared, below which a window says nothing about a gain, which then is 1; in normalised intensity.
_LEAST_VARIANCE = 0.01
_LARGEST_GAIN = 3.0
#: Side of the window in which noise is told from detail, in pixels of the scan.
_NOISE_WINDOW = 5
#: From the noise in the detail, shape ``(slices, rows, columns)``, and its level in tissue to what takes its place.
FinerNoise = Callable[[NDArray[np.float32], float, SliceStack], NDArray[np.float32]]


def change_at_native_size(
    native: NDArray[np.float32],
    images: Tensor,
    edited: Tensor,
    stack: SliceStack,
    finer_noise: FinerNoise | None = None,
    level: float | None = None,
) -> NDArray[np.float32]:
    """Return what an edit changes on the scan's own matrix.

    Args:
        native: Slices of the scan, normalised intensity, shape ``(slices, rows, columns)``.
        images: The same as the network saw them, shape ``(slices, 1, size, size)``.
        edited: What the network made of them, same shape.
        stack: How the two grids relate.
        finer_noise: What becomes of the noise in the detail; ``None`` lets it follow the contrast.
        level: Standard deviation of that noise, see `detail_level`; ``None`` measures it on these slices.

    Returns:
        Shape of ``native``; exactly zero where ``edited`` is ``images``, unless the noise changes.
    """
    # Not the gain: resampling moves what is 1 everywhere by a rounding error, and 0 stays 0.
    change, more = (stack.at_native_size(one)[:, 0] for one in (edited - images, _gain(images, edited) - 1))
    detail = _detail(native, images, stack)
    if finer_noise is None:
        return np.asarray(change + more * detail, dtype=np.float32)
    level = detail_level(native, images, stack) if level is None else level
    noise = _noise(detail, level)
    return np.asarray(change + more * (detail - noise) + (finer_noise(noise, level, stack) - noise), dtype=np.float32)


def detail_level(native: NDArray[np.float32], images: Tensor, stack: SliceStack) -> float:
    """Return the standard deviation, in tissue, of noise that the network does not see; as for `change_at_native_size`.

    Args:
        native: Slices of the scan.
        images: The same as the network saw them.
        stack: How the two grids relate.
    """
    return robust_spread(_detail(native, images, stack)[native > TISSUE_INTENSITY])


def _detail(native: NDArray[np.float32], images: Tensor, stack: SliceStack) -> NDArray[np.float32]:
    return np.asarray(native - stack.at_native_size(images)[:, 0])


def _noise(detail: NDArray[np.float32], level: float) -> NDArray[np.float32]:
    """The part of the detail, slice by slice, that does not stand out of noise of that level: a local Wiener filter."""
    window = (1, _NOISE_WINDOW, _NOISE_WINDOW)
    power = uniform_filter(detail * detail, window)
    return np.asarray(detail * np.minimum(1, level**2 / np.maximum(power, 1e-12)), dtype=np.float32)


def _gain(images: Tensor, edited: Tensor) -> Tensor:
    """Slope of the local regression of the edited on the source image, drawn to 1 where there is no contrast."""
    mean, edited_mean = _window_mean(images), _window_mean(edited)
    covariance = _window_mean(images * edited) - mean * edited_mean
    variance = _window_mean(images * images) - mean * mean
    return ((covariance + _LEAST_VARIANCE) / (variance + _LEAST_VARIANCE)).clamp(0, _LARGEST_GAIN)


def _window_mean(images: Tensor) -> Tensor:
    padded = F.pad(images, (_REACH,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * _REACH + 1, stride=1)
