"""Distances between two sets of images in a named feature space: Fréchet distance and KID.

Never "FID": that is the Fréchet distance on Inception's features, and the features here are others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def frechet_distance(first: Array, second: Array) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets of features.

    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)``, both roots by eigenvalues. It is biased: the fewer
    samples, the larger; compare only distances of sets of the same sizes.

    Args:
        first: Features, shape ``(samples, features)``.
        second: Features, shape ``(samples, features)``.

    Source: Dowson & Landau, J Multivariate Anal 1982;12:450-455.
    """
    means = first.mean(axis=0), second.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(samples, rowvar=False)) for samples in (first, second)]
    root = _root(covariances[0])
    product = root @ covariances[1] @ root
    mixed = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    distance = np.sum((means[0] - means[1]) ** 2) + sum(np.trace(one) for one in covariances) - 2 * mixed
    return float(max(distance, 0.0))


def kernel_distance(first: Array, second: Array) -> float:
    """Return the unbiased squared maximum mean discrepancy with the kernel ``(u.v / d + 1)^3``.

    It may be negative: that is sets that do not differ.

    Args:
        first: Features, shape ``(samples, features)``, at least 2 samples.
        second: As ``first``.

    Source: Binkowski et al. 2018 (KID), section 3.
    """
    within = [_kernel(samples, samples) for samples in (first, second)]
    off_diagonal = [(one.sum() - np.trace(one)) / (len(one) * (len(one) - 1)) for one in within]
    return float(sum(off_diagonal) - 2 * _kernel(first, second).mean())


def _kernel(first: Array, second: Array) -> Array:
    return np.asarray((first @ second.T / first.shape[1] + 1) ** 3)


def _root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
