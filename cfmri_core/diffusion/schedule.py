"""The noise schedule, by index: alpha_bar[0] is the clean image, alpha_bar[steps] almost pure noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cfmri_core.errors import RequestError


def cosine_alpha_bar(steps: int = 1000) -> Tensor:
    """Return the cumulative signal level of the cosine schedule.

    Each step's alpha is clipped to [1e-4, 0.9999] as in the paper's code. MONAI's schedule clips
    beta at 0.999 instead, so the two are not bit-identical and published weights need this one.

    Args:
        steps: Number of noise levels T.

    Returns:
        Signal level, float32, shape ``(steps + 1,)``, strictly decreasing from exactly 1. A network
        timestep t (counted from 0) belongs to index t + 1.

    Source: Nichol and Dhariwal 2021 (improved DDPM), eq. 17, s = 0.008.
    """
    offset = 0.008
    time = torch.arange(steps + 1, dtype=torch.float64) / steps
    level = torch.cos((time + offset) / (1 + offset) * math.pi / 2).square()
    alpha = (level[1:] / level[:-1]).clamp(1e-4, 0.9999)
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha.cumprod(0)]).float()


def index_grid(top: int, steps: int) -> list[int]:
    """Return ``steps + 1`` schedule indices from 0 to ``top``, evenly spaced and rounded.

    Raises:
        RequestError: There are no steps, or more than indices.
    """
    if not 1 <= steps <= top:
        raise RequestError(f"Cannot place {steps} steps on the indices 0 to {top}.", f"Give 1 to {top} steps.")
    return [int(index) for index in torch.linspace(0, top, steps + 1, dtype=torch.float64).round()]
