"""Is the anatomy of two images the same, whatever their contrast?

Volumes are float arrays of one shape ``(i, j, k)`` in normalised units (1 = the P10-P99 range of the
volume), masks bool arrays of the same shape. Gradients and windows lie in the plane of axes i and j:
across slices the spacing is another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter, uniform_filter

from cfmri_core.errors import GeometryError

Voxels = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

#: Gradient per voxel, in normalised units, below which an image counts as flat.
FLAT_GRADIENT = 0.02
#: Half-width of the window in which a contrast change counts as one linear map, in voxels.
WINDOW_VOXELS = 3
#: Variance below which a window of the source carries no edges, in squared normalised units.
_FLAT_VARIANCE = 0.02**2
#: Immerkær's mask: the difference of two Laplacians, blind to edges that run straight.
_NOISE_MASK = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])


def gradient_orientation_agreement(image: Voxels, reference: Voxels, mask: Mask, edge: float = FLAT_GRADIENT) -> float:
    """Return the mean squared cosine between in-plane gradients of two images.

    1 where edges coincide and are sharp, half of what an image has with itself for unrelated images.

    Blind to contrast and to its sign, so that it compares anatomy across acquisitions. Each gradient is
    smoothed by one voxel; voxels where ``reference`` is flat (gradient below ``edge`` per voxel, in
    normalised units) say nothing about anatomy and carry little weight.

    Raises:
        GeometryError: The shapes differ.

    Source: normalised gradient field, Haber & Modersitzki, MICCAI 2006, eq. 4-6.
    """
    if not image.shape == reference.shape == mask.shape:
        raise GeometryError(f"Images of shape {image.shape} and {reference.shape} cannot be compared.")
    (x_i, x_j), (y_i, y_j) = _plane_gradient(image), _plane_gradient(reference)
    energy_x, energy_y = x_i**2 + x_j**2 + edge**2, y_i**2 + y_j**2
    cosine_squared = (x_i * y_i + x_j * y_j) ** 2 / (energy_x * (energy_y + edge**2))
    weight = np.where(mask, energy_y / (energy_y + edge**2), 0.0)
    total = float(weight.sum())
    return float((cosine_squared * weight).sum()) / total if total > 0 else math.nan


def gradient_magnitude(image: Voxels) -> NDArray[np.float64]:
    """Return the in-plane gradient per voxel, smoothed by one voxel, shape of the image."""
    along_i, along_j = _plane_gradient(image)
    return np.asarray(np.hypot(along_i, along_j))


def structural_change(result: Voxels, source: Voxels, window: int = WINDOW_VOXELS) -> NDArray[np.float64]:
    """Return what an edit changed beyond any local change of contrast, signed, shape of the images.

    Within each window the result is fitted by a linear map of the source; what the maps, averaged over
    the windows that hold a voxel, leave over is structure that was added or removed.

    Source: guided filter, He, Sun & Tang, IEEE Trans Pattern Anal Mach Intell 2013;35:1397-1409,
    eq. 5, 6 and 9, with the source as guide.
    """
    size = (2 * window + 1, 2 * window + 1, 1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(uniform_filter(values, size))

    x, y = source.astype(np.float64), result.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    slope = (mean(x * y) - mean_x * mean_y) / (mean(x * x) - mean_x**2 + _FLAT_VARIANCE)
    return np.asarray(y - mean(slope) * x - mean(mean_y - slope * mean_x))


def noise_level(image: Voxels) -> float:
    """Return the standard deviation of the noise, in the image's unit.

    The median over slices, so that a slice full of fine detail does not count as noise.

    Source: Immerkær, Comput Vis Image Underst 1996;64:300-302, eq. 4, with the median of the absolute
    response (0.6745 standard deviations of a normal distribution) for its mean.
    """
    response = np.abs(convolve(image.astype(np.float64), _NOISE_MASK[:, :, None], mode="nearest"))
    return float(np.median(response)) / 0.6745 / 6.0


def body_mask(voxels: Voxels, threshold: float = 0.15) -> Mask:
    """Return where there is tissue: smoothed normalised intensity above a threshold, shape of the volume."""
    return np.asarray(gaussian_filter(voxels.astype(np.float64), (1.5, 1.5, 0.0)) > threshold)


def _plane_gradient(image: Voxels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    smooth = gaussian_filter(image.astype(np.float64), (1.0, 1.0, 0.0))
    # An image one voxel wide changes along its other axis only.
    along_i, along_j = (np.gradient(smooth, axis=a) if smooth.shape[a] > 1 else np.zeros_like(smooth) for a in (0, 1))
    return along_i, along_j
