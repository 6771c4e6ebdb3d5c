"""Sampling inside a region while the rest of the slices stays as it is, by explicit pairs of schedule indices.

Noise is drawn by number: each draw of a run has a number of its own, the same for every slice, so that a slab changes
alike throughout.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from cfmri_core.diffusion.sampling import Callback, EpsModel, NoiseSource, add_noise, ignore, step


def repaint(
    eps_model: EpsModel,
    x0: Tensor,
    region: Tensor,
    condition: Tensor,
    alpha_bar: Tensor,
    grid: list[int],
    *,
    noise: NoiseSource,
    resamplings: int = 1,
    resampled: tuple[float, float] = (0.2, 0.8),
    callback: Callback = ignore,
) -> Tensor:
    """Fill a region by denoising, with what is known around it put back at every step.

    Known and unknown part are both taken to the level that a step ends at. (MedEdit's code noises the known part to the
    level the step began at, so that its border is noisier than the rest.)

    Args:
        eps_model: Noise predictor, called as ``eps_model(x_t, index, condition)``.
        x0: Slices, float32, shape ``(batch, 1, rows, cols)``.
        region: Where to fill, bool, same shape.
        condition: Condition vectors, shape ``(1, width)``.
        alpha_bar: Cumulative signal level, shape ``(1001,)``.
        grid: Increasing schedule indices from 0 to where the filling starts.
        noise: Noise by the number of the draw.
        resamplings: How often a step is taken; each time but the last its result is noised back, so that the filling
            and its surroundings can agree.
        resampled: Between which shares of the schedule that is done; elsewhere steps are taken once.
        callback: Progress and cancel.

    Returns:
        Slices, same shape; outside the region ``x0`` itself.

    Source: Lugmayr et al. 2022 (RePaint), algorithm 1, on a strided grid; Ben Alaya et al. 2024 (MedEdit).
    """
    pairs, draws = list(itertools.pairwise(reversed(grid))), itertools.count()
    low, high = (share * (len(alpha_bar) - 1) for share in resampled)
    x = add_noise(x0, noise(next(draws)), grid[-1], alpha_bar)
    for done, (i, j) in enumerate(pairs, 1):
        times = resamplings if low <= i <= high and j > 0 else 1
        for again in range(times):
            eps = eps_model(x, i, condition)
            fresh = noise(next(draws)) if j > 0 else None
            unknown = step(x, eps, i, j, alpha_bar, eta=1.0, noise=fresh)
            known = add_noise(x0, noise(next(draws)), j, alpha_bar)
            x = torch.where(region, unknown, known)
            if again < times - 1:
                share = float(alpha_bar[i] / alpha_bar[j])
                x = math.sqrt(share) * x + math.sqrt(1 - share) * noise(next(draws))
        callback(done, len(pairs))
    return x


def fill(
    eps_model: EpsModel,
    x0: Tensor,
    region: Tensor,
    condition: Tensor,
    alpha_bar: Tensor,
    grid: list[int],
    *,
    noise: NoiseSource,
    callback: Callback = ignore,
) -> Tensor:
    """Fill a region by denoising it alone: the network sees what is around it without noise.

    Args, result: As `repaint`.

    Source: Saharia et al. 2022 (Palette), section 3 (inpainting: noise only in the masked area).
    """
    pairs, draws = list(itertools.pairwise(reversed(grid))), itertools.count()
    x = torch.where(region, add_noise(x0, noise(next(draws)), grid[-1], alpha_bar), x0)
    for done, (i, j) in enumerate(pairs, 1):
        fresh = noise(next(draws)) if j > 0 else None
        unknown = step(x, eps_model(x, i, condition), i, j, alpha_bar, eta=1.0, noise=fresh)
        x = torch.where(region, unknown, x0)
        callback(done, len(pairs))
    return x


def regenerate(
    eps_model: EpsModel,
    x0: Tensor,
    condition: Tensor,
    alpha_bar: Tensor,
    grid: list[int],
    *,
    noise: NoiseSource,
    callback: Callback = ignore,
) -> Tensor:
    """Noise whole slices to the top of the grid and denoise them again.

    Args, result: As `repaint`, but everything may change.

    Source: Meng et al. 2022 (SDEdit), algorithm 1, with ancestral sampling.
    """
    pairs, draws = list(itertools.pairwise(reversed(grid))), itertools.count()
    x = add_noise(x0, noise(next(draws)), grid[-1], alpha_bar)
    for done, (i, j) in enumerate(pairs, 1):
        fresh = noise(next(draws)) if j > 0 else None
        x = step(x, eps_model(x, i, condition), i, j, alpha_bar, eta=1.0, noise=fresh)
        callback(done, len(pairs))
    return x
