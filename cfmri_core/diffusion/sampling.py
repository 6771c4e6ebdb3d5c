"""Sampling and editing by explicit pairs of schedule indices (i -> j), i > j.

MONAI's schedulers assume i - j = T // N and leave noise behind on any other grid (MONAI 1.6.1), so
none of them is used. Every function takes the noise predictor as an argument, called as
``eps_model(x_t, index, condition)``, and reports ``callback(step, total)`` after each sequential
step; an exception raised by the callback stops the work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cfmri_core.errors import RequestError

#: Noise predictor: slices ``(batch, 1, rows, cols)``, schedule index, conditions ``(batch, width)``.
EpsModel = Callable[[Tensor, int, Tensor], Tensor]
#: Standard normal noise for a schedule index, of a shape that broadcasts to the slices.
NoiseSource = Callable[[int], Tensor]
#: Called as ``callback(step, total)``.
Callback = Callable[[int, int], None]


def ignore(step: int, total: int) -> None:
    """Report nothing."""


def shared_noise(seed: int, rows: int, cols: int, device: torch.device | str = "cpu") -> NoiseSource:
    """Return noise that is the same for every slice, shape ``(1, 1, rows, cols)`` per index.

    Slices that share their noise are edited alike, which keeps the stack free of flicker. The
    noise depends on seed and index only: not on the device, the grid, or how slices are batched.

    Args:
        seed: Not negative.
        rows: Rows of a slice.
        cols: Columns of a slice.
        device: Where the slices are.
    """
    return lambda index: _standard_normal([seed, index], rows, cols).to(device)


def independent_noise(
    seed: int, slice_numbers: Sequence[int], rows: int, cols: int, device: torch.device | str = "cpu"
) -> NoiseSource:
    """Return noise drawn for each slice by itself, shape ``(slices, 1, rows, cols)`` per index.

    Args:
        seed: Not negative.
        slice_numbers: Number of each slice in its volume, so that batching changes nothing.
        rows: Rows of a slice.
        cols: Columns of a slice.
        device: Where the slices are.
    """
    return lambda index: torch.cat(
        [_standard_normal([seed, index, number], rows, cols) for number in slice_numbers]
    ).to(device)


def add_noise(x0: Tensor, noise: Tensor, index: int, alpha_bar: Tensor) -> Tensor:
    """Return ``x_i = sqrt(alpha_bar_i) x0 + sqrt(1 - alpha_bar_i) noise``; ``x0`` itself at index 0.

    Source: Ho et al. 2020 (DDPM), eq. 4.
    """
    level = float(alpha_bar[index])
    return math.sqrt(level) * x0 + math.sqrt(1 - level) * noise


def step(
    x: Tensor, eps: Tensor, i: int, j: int, alpha_bar: Tensor, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """Move from noise level i to the lower level j.

    The step is linear in ``(x, eps)``. Its two coefficients are computed in double precision,
    because near index 1000 they are large differences of nearly equal numbers.

    Args:
        x: Slices at level i, shape ``(batch, 1, rows, cols)``.
        eps: Noise predicted in ``x``, same shape.
        i: Schedule index of ``x``.
        j: Schedule index to go to, less than i.
        alpha_bar: Cumulative signal level, shape ``(1001,)``, first value 1.
        eta: 0 is deterministic (DDIM), 1 has the variance of the DDPM posterior.
        noise: Standard normal noise; without it the mean is returned.

    Returns:
        Slices at level j, same shape.

    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    """
    from_level, to_level = float(alpha_bar[i]), float(alpha_bar[j])
    variance = eta**2 * (1 - to_level) / (1 - from_level) * (1 - from_level / to_level)
    of_x = math.sqrt(to_level / from_level)
    of_eps = math.sqrt(max(1 - to_level - variance, 0.0)) - of_x * math.sqrt(1 - from_level)
    mean = of_x * x + of_eps * eps
    return mean if noise is None else mean + math.sqrt(variance) * noise


def edit_friendly(
    eps_model: EpsModel,
    x0: Tensor,
    source: Tensor,
    target: Tensor,
    alpha_bar: Tensor,
    grid: Sequence[int],
    *,
    noise: NoiseSource,
    guidance_scale: float = 1.0,
    callback: Callback = ignore,
) -> Tensor:
    """Edit slices by edit-friendly inversion, with the source condition as guidance base.

    Independently noised copies ``x_k`` of the source are linked by the residuals
    ``r = x_j - mu(x_i, eps(x_i, source))``, and the edit replays
    ``y_j = mu(y_i, eps_edit(y_i)) + r`` from ``y_top = x_top``. Since mu is linear, the difference
    ``d = y - x`` obeys ``d_j = mu(d_i, eps_edit(x_i + d_i) - eps(x_i, source))``, and that is what
    is computed: equal conditions keep d at zero, so a null edit returns the source for any
    guidance scale, and nothing but the current step has to be held in memory.

    The source evaluation rides in the same batch as those of the edit: one call of 2 (with
    guidance 3) times the batch per step.

    Args:
        eps_model: Noise predictor.
        x0: Slices, float32, shape ``(batch, 1, rows, cols)``.
        source: Factual condition vectors, shape ``(1, width)`` or ``(batch, width)``.
        target: Requested condition vectors, same shapes.
        alpha_bar: Cumulative signal level, shape ``(1001,)``.
        grid: Schedule indices from 0 to the depth of the edit, increasing.
        noise: Noise of each index, drawn once per index.
        guidance_scale: w in ``eps(source) + w (eps(target) - eps(source))``; 1 needs no extra
            evaluation.
        callback: Progress and cancel.

    Returns:
        Edited slices, same shape.

    Source: Huberman-Spiegelglas et al. 2024 (edit-friendly DDPM inversion), eq. 6-8.
    """
    source, target = _per_slice(source, x0), _per_slice(target, x0)
    if torch.equal(source, target):
        # The change is zero by construction; low-precision kernels that differ by batch position would blur that.
        callback(len(grid) - 1, len(grid) - 1)
        return x0.clone()
    conditions = [source, target] if guidance_scale == 1 else [source, target, source]
    pairs = _descending(grid)
    change = torch.zeros_like(x0)
    for done, (i, j) in enumerate(pairs, start=1):
        x = add_noise(x0, noise(i), i, alpha_bar)
        slices = [x] + [x + change] * (len(conditions) - 1)
        of_source, edit, *base = eps_model(torch.cat(slices), i, torch.cat(conditions)).chunk(len(conditions))
        if base:
            edit = base[0] + guidance_scale * (edit - base[0])
        change = step(change, edit - of_source, i, j, alpha_bar, eta=1.0)
        callback(done, len(pairs))
    return x0 + change


def paper_edit(
    eps_model: EpsModel,
    x0: Tensor,
    target: Tensor,
    alpha_bar: Tensor,
    *,
    noise: NoiseSource,
    start: int = 50,
    guidance_scale: float = 3.0,
    pin_quantiles: tuple[float, float] = (0.10, 0.99),
    pin_values: tuple[float, float] = (0.0, 1.0),
    callback: Callback = ignore,
) -> Tensor:
    """Edit slices as the paper's code does: add a little noise, then denoise towards the target.

    Kept as published, so that results can be compared: the slices are noised at network timestep
    ``start`` but first denoised as ``start - 1``, the guidance base is the unconditional prediction,
    and at every step two quantiles of each slice's estimate are pinned to fixed values.

    Args:
        eps_model: Noise predictor; called with twice the batch, ``start`` times.
        x0: Slices, float32, shape ``(batch, 1, rows, cols)``.
        target: Requested condition vectors, shape ``(1, width)`` or ``(batch, width)``.
        alpha_bar: Cumulative signal level, shape ``(steps + 1,)``.
        noise: Noise by index: that of ``start + 1`` noises the slices, that of j goes with the step
            to j > 0.
        start: Number of denoising steps, 1 to ``steps - 1``.
        guidance_scale: w in ``eps(nothing) + w (eps(target) - eps(nothing))``.
        pin_quantiles: Quantiles that are pinned, in [0, 1].
        pin_values: What they are pinned to: where the network's scale has these quantiles.
        callback: Progress and cancel.

    Returns:
        Edited slices, same shape.

    Raises:
        RequestError: ``start`` is out of range.

    Source: the code of the paper (arXiv 2410.23835), which differs from its Algorithm 1.
    """
    if not 1 <= start <= len(alpha_bar) - 2:
        raise RequestError(
            f"The paper's edit cannot start at step {start}.",
            f"Give 1 to {len(alpha_bar) - 2} steps; the paper uses 50.",
        )
    conditions = _per_slice(target, x0)
    conditions = torch.cat([torch.zeros_like(conditions), conditions])
    x = add_noise(x0, noise(start + 1), start + 1, alpha_bar)
    for i in range(start, 0, -1):
        base, conditional = eps_model(torch.cat([x, x]), i, conditions).chunk(2)
        eps = base + guidance_scale * (conditional - base)
        level = float(alpha_bar[i])
        estimate = pin((x - math.sqrt(1 - level) * eps) / math.sqrt(level), pin_quantiles, pin_values)
        x = posterior_step(x, estimate, i, alpha_bar, noise(i - 1) if i > 1 else None)
        callback(start - i + 1, start)
    return x


def posterior_step(x: Tensor, x0: Tensor, i: int, alpha_bar: Tensor, noise: Tensor | None = None) -> Tensor:
    """Draw from the DDPM posterior of level i - 1, given level i and an estimate of the clean slice.

    Args:
        x: Slices at level i, shape ``(batch, 1, rows, cols)``.
        x0: Estimate of the clean slices, same shape.
        i: Schedule index of ``x``.
        alpha_bar: Cumulative signal level.
        noise: Standard normal noise; without it the mean is returned.

    Source: Ho et al. 2020 (DDPM), eq. 6-7.
    """
    level, next_level = float(alpha_bar[i]), float(alpha_bar[i - 1])
    alpha = level / next_level
    beta, rest, next_rest = 1 - alpha, 1 - level, 1 - next_level
    mean = math.sqrt(next_level) * beta / rest * x0 + math.sqrt(alpha) * next_rest / rest * x
    return mean if noise is None else mean + math.sqrt(beta * next_rest / rest) * noise


def pin(x: Tensor, quantiles: tuple[float, float], values: tuple[float, float]) -> Tensor:
    """Map two quantiles of each slice to two values, linearly and without clipping.

    Args:
        x: Slices, shape ``(batch, 1, rows, cols)``.
        quantiles: Two quantiles in [0, 1].
        values: What they become.
    """
    wanted = torch.tensor(quantiles, dtype=x.dtype, device=x.device)
    # One slice at a time: torch.quantile refuses more than 16 million values at once.
    found = torch.stack([one.flatten().quantile(wanted) for one in x])
    low, high = found[:, 0, None, None, None], found[:, 1, None, None, None]
    return (x - low) / (high - low).clamp(min=1e-6) * (values[1] - values[0]) + values[0]


def _descending(grid: Sequence[int]) -> list[tuple[int, int]]:
    if len(grid) < 2 or any(low >= high for low, high in itertools.pairwise(grid)):
        raise RequestError("A sampling grid needs at least two increasing indices.", "Use index_grid(top, steps).")
    return list(zip(grid[:0:-1], grid[-2::-1], strict=True))


def _per_slice(condition: Tensor, slices: Tensor) -> Tensor:
    return condition.to(slices).expand(slices.shape[0], -1)


def _standard_normal(key: list[int], rows: int, cols: int) -> Tensor:
    drawn = np.random.default_rng(key).standard_normal((1, 1, rows, cols), dtype=np.float32)
    return torch.from_numpy(drawn)
