"""How near an edited volume comes to its paired truth, and what the edit did to the anatomy.

Volumes are float arrays of one shape ``(i, j, k)`` in normalised units (1 = the P10-P99 range of the
volume, see `cfmri_core.slices`); masks are bool arrays of the same shape. Everything is
measured inside the mask only: the empty background of an MR image inflates every similarity.
Agreement of anatomy whatever the contrast is in `cfmri_core.anatomy_agreement`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cfmri_core.errors import GeometryError

Voxels = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

#: One unit is the P10-P99 range of a volume, so this is what the peak of PSNR and SSIM refers to.
DATA_RANGE = 1.0


def masked_psnr_db(image: Voxels, truth: Voxels, mask: Mask, data_range: float = DATA_RANGE) -> float:
    """Return ``10 log10(range^2 / MSE)`` over the mask, in decibels; infinite where both are equal.

    Source: Huynh-Thu & Ghanbari, Electron Lett 2008;44:800-801, eq. 1, restricted to a region.
    """
    _require_same_grid(image, truth, mask)
    error = float(np.mean((_inside(image, mask) - _inside(truth, mask)) ** 2))
    return math.inf if error == 0 else 10.0 * math.log10(data_range**2 / error)


def masked_ssim(
    image: Voxels, truth: Voxels, mask: Mask, data_range: float = DATA_RANGE, sigma_voxels: float = 1.5
) -> float:
    """Return the mean over the mask of the structural similarity map, computed slice by slice.

    The Gaussian window lies in the slice plane (axes i and j): across slices the spacing is another.

    Source: Wang et al., IEEE Trans Image Process 2004;13:600-612, eq. 13 with K1 = 0.01, K2 = 0.03 and
    a Gaussian window of standard deviation 1.5 pixels.
    """
    _require_same_grid(image, truth, mask)
    sigma = (sigma_voxels, sigma_voxels, 0.0)

    def smooth(values: Voxels) -> Voxels:
        return np.asarray(gaussian_filter(values, sigma, truncate=3.5), dtype=np.float64)

    x, y = image.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = smooth(x), smooth(y)
    variance_x, variance_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity[mask].mean())


def change_recovered_slope(result: Voxels, source: Voxels, truth: Voxels, mask: Mask) -> float:
    """Return how much of the true change the edit made: ``<x' - x, y - x> / ||y - x||^2``.

    0 for leaving the source x as it is, 1 for the truth y, above 1 for overshooting. Unlike a
    similarity it cannot be won by doing nothing. NaN when the truth equals the source.

    Noise of the source counts as change asked for: an editor that keeps it stays below 1. Give source and
    result without noise to measure the acquisition's change alone.

    Source: the slope of the least-squares regression through the origin of the change made on the
    change asked for (Draper & Smith, Applied Regression Analysis, 3rd ed., section 1.1).
    """
    _require_same_grid(result, truth, mask)
    wanted = _inside(truth, mask) - _inside(source, mask)
    energy = float(wanted @ wanted)
    made = _inside(result, mask) - _inside(source, mask)
    return float(made @ wanted) / energy if energy > 0 else math.nan


def slice_gain_jitter(result: Voxels, truth: Voxels, mask: Mask, minimum_voxels: int = 50) -> float:
    """Return the standard deviation over slices of the gain that maps the truth's slice to the result's.

    0 for an edit whose brightness and contrast are steady from slice to slice; edits that normalise
    each slice alone flicker, which nothing measured within slices would show.

    The gain of slice k is the least-squares slope of ``result[:, :, k]`` on ``truth[:, :, k]`` inside the
    mask; slices with fewer voxels than ``minimum_voxels`` in the mask are left out.
    """
    _require_same_grid(result, truth, mask)
    gains = []
    for k in range(mask.shape[2]):
        inside = mask[:, :, k]
        if inside.sum() < minimum_voxels:
            continue
        x = _inside(truth[:, :, k], inside)
        y = _inside(result[:, :, k], inside)
        variance = float(np.var(x))
        if variance > 0:
            gains.append(float(np.mean((x - x.mean()) * (y - y.mean()))) / variance)
    return float(np.std(gains)) if gains else math.nan


def z_jitter(volume: Voxels, mask: Mask, minimum_voxels: int = 50) -> float:
    """Return the standard deviation over neighbouring slices of their mean difference inside the mask.

    A volume whose brightness flickers from slice to slice has more of it than its anatomy explains: compare with the
    truth's own. Noise of single voxels averages out. NaN with fewer than two pairs of slices that share
    ``minimum_voxels`` in the mask.
    """
    _require_same_grid(volume, volume, mask)
    steps = []
    for k in range(mask.shape[2] - 1):
        shared = mask[:, :, k] & mask[:, :, k + 1]
        if shared.sum() >= minimum_voxels:
            steps.append(float(np.mean(_inside(volume[:, :, k + 1], shared) - _inside(volume[:, :, k], shared))))
    return float(np.std(steps)) if len(steps) > 1 else math.nan


def excess_rmse(result: Voxels, second_scan: Voxels, truth: Voxels, mask: Mask) -> float:
    """Return the root of the mean squared error beyond that of a second scan; 0 at the noise ceiling or above it.

    The second scan has nothing wrong but its noise. What an edit has beyond that, noise does not excuse.
    """
    _require_same_grid(result, truth, mask)
    target = _inside(truth, mask)
    beyond = np.mean((_inside(result, mask) - target) ** 2) - np.mean((_inside(second_scan, mask) - target) ** 2)
    return math.sqrt(max(0.0, float(beyond)))


def tissue_means(volume: Voxels, labels: NDArray[np.integer[Any]]) -> dict[int, float]:
    """Return the mean of each tissue label above 0."""
    return {int(label): float(volume[labels == label].mean()) for label in np.unique(labels) if label > 0}


def contrast_error(result: Voxels, truth: Voxels, labels: NDArray[np.integer[Any]]) -> float:
    """Return by how much the contrast of fibroglandular tissue to fat misses the truth's, in normalised units.

    Contrast is the difference of the two tissues' means (labels 2 and 1); NaN where one of them is absent.
    """
    made, wanted = tissue_means(result, labels), tissue_means(truth, labels)
    if not {1, 2} <= set(wanted):
        return math.nan
    return abs((made[2] - made[1]) - (wanted[2] - wanted[1]))


def dice(prediction: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], label: int) -> float:
    """Return the overlap ``2 |A and B| / (|A| + |B|)`` of one label; NaN where neither holds it.

    Source: Dice, Ecology 1945;26:297-302.
    """
    if prediction.shape != truth.shape:
        raise GeometryError(f"Labels of shape {prediction.shape} and {truth.shape} cannot be compared.")
    a, b = prediction == label, truth == label
    size = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / size if size else math.nan


def _inside(image: Voxels, mask: Mask) -> NDArray[np.float64]:
    return image[mask].astype(np.float64)


def _require_same_grid(image: Voxels, other: Voxels, mask: Mask) -> None:
    if not image.shape == other.shape == mask.shape:
        raise GeometryError(
            f"Images of shape {image.shape} and {other.shape} with a mask of shape {mask.shape} cannot be compared.",
            "Give volumes on one grid.",
        )
    if not mask.any():
        raise GeometryError("The mask is empty: there is nothing to measure.", "Check the labels of this study.")
