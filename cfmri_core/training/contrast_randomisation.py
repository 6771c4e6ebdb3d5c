"""Images made from tissue labels with random contrast: what a network sees that must not trust intensities.

Source: Billot et al. (SynthSeg), Med Image Anal 2023;86:102789: a Gaussian per label, background split by intensity
clusters, bias field, blur, noise. Here in 2D, and beside real slices instead of in their place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.slices import HIGH_PERCENTILE, LOW_PERCENTILE

#: Clusters of the background (air, lung, muscle, skin and vessels), since its label holds all of them.
BACKGROUND_CLASSES = 4
#: Upper ends of the uniform distributions drawn from, in the unit of intensity where 1 is the brightest tissue.
HIGHEST_AIR, HIGHEST_SPREAD, HIGHEST_NOISE, HIGHEST_BLUR_PIXELS, HIGHEST_BIAS = 0.15, 0.10, 0.08, 1.0, 0.35
_BLUR_RADIUS = 3
_BIAS_NODES = 4


class ContrastRandomisation:
    """Draws an image for each slice from its label map alone.

    Args:
        slices: Slices with labels; their intensities only split the background into classes.
        seed: Seed of the clustering.
    """

    def __init__(self, slices: SliceSet, seed: int = 0) -> None:
        self.regions = background_classes(slices, seed)

    def __call__(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Return random images of the chosen slices, float32, shape ``(batch, 1, rows, cols)``, normalised as scans."""
        regions = self.regions[chosen]
        count = BACKGROUND_CLASSES + 2
        means = torch.rand(len(chosen), count, generator=generator)
        means[:, 0] *= HIGHEST_AIR
        spreads = HIGHEST_SPREAD * torch.rand(len(chosen), count, generator=generator)
        index = regions.flatten(1)
        texture = torch.randn(index.shape, generator=generator)
        images = (means.gather(1, index) + spreads.gather(1, index) * texture).view(regions.shape)[:, None]
        images = _blurred(images, HIGHEST_BLUR_PIXELS * torch.rand(len(chosen), generator=generator))
        images = images * _bias(images, generator)
        noise = HIGHEST_NOISE * torch.rand(len(chosen), 1, 1, 1, generator=generator)
        return _normalised((images + noise * torch.randn(images.shape, generator=generator)).abs())


def background_classes(slices: SliceSet, seed: int) -> Tensor:
    """Number the regions of every slice: background classes from dark (0) to bright, then fat, then fibroglandular.

    Returns:
        int64, shape ``(slices, rows, cols)``.

    Raises:
        RequestError: The slices have no labels.
    """
    if slices.labels is None:
        raise RequestError("Contrast randomisation needs tissue labels.", "Read the studies with their labels.")
    regions = slices.labels + BACKGROUND_CLASSES - 1
    smooth = avg_pool2d(slices.images, 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    for subject in range(len(slices.parameters)):
        where = (slices.subject == subject)[:, None, None] & (slices.labels == 0)
        regions[where] = torch.from_numpy(_clusters(smooth[where].numpy(), seed))
    return regions


def _clusters(values: NDArray[np.float32], seed: int) -> NDArray[np.int64]:
    """Number one-dimensional k-means clusters by rising intensity."""
    if np.unique(values[:4000]).size <= BACKGROUND_CLASSES:
        return np.zeros(len(values), dtype=np.int64)
    some = np.random.default_rng(seed).choice(values, min(len(values), 4000), replace=False)
    centres, _ = kmeans2(some[:, None].astype(np.float64), BACKGROUND_CLASSES, minit="++", rng=seed)
    ordered = np.sort(centres[:, 0])
    return np.asarray(np.searchsorted((ordered[1:] + ordered[:-1]) / 2, values), dtype=np.int64)


def _blurred(images: Tensor, sigma_pixels: Tensor) -> Tensor:
    """Blur each image with its own Gaussian; shape ``(batch, 1, rows, cols)``."""
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    kernels = torch.exp(-0.5 * (offsets / sigma_pixels.clamp(min=0.05)[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True))[:, None, None, :]
    across = pad(images.transpose(0, 1), (_BLUR_RADIUS,) * 4, mode="replicate")
    across = conv2d(across, kernels, groups=len(images))
    return conv2d(across, kernels.transpose(2, 3), groups=len(images)).transpose(0, 1)


def _bias(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return a smooth positive gain per image."""
    strength = HIGHEST_BIAS * torch.rand(len(images), 1, 1, 1, generator=generator)
    nodes = torch.randn(len(images), 1, _BIAS_NODES, _BIAS_NODES, generator=generator)
    size = images.shape[2], images.shape[3]
    return torch.exp(strength * interpolate(nodes, size=size, mode="bicubic", align_corners=True))


def _normalised(images: Tensor) -> Tensor:
    """Map the percentiles of each image to 0 and 1, as volumes are on the way into a network."""
    percentiles = torch.tensor([LOW_PERCENTILE, HIGH_PERCENTILE]) / 100
    limits: Tensor = torch.quantile(images.flatten(1), percentiles, dim=1).view(2, -1, 1, 1, 1)
    return (images - limits[0]) / (limits[1] - limits[0]).clamp(min=1e-3)
