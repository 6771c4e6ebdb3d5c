"""What a frozen segmenter is shown of edits in fine-tuning: the slices, and the same slices as seen otherwise.

A network that is tuned against one segmenter learns that segmenter: changes that no other takes for tissue. Over
random size, angle, sharpness, contrast and noise such changes do not hold, and tissue does (expectation over
transformation, Athalye et al. 2018, there against classifiers).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

#: Largest change of size, as a logarithm, and of angle, in radians.
LARGEST_ZOOM, LARGEST_ANGLE = 0.22, math.radians(15)
#: Largest change of the exponent of intensity, as a logarithm, and most noise (standard deviation), in normalised
#: intensity.
LARGEST_GAMMA, MOST_NOISE = 0.35, 0.06


def judge_view(source: Tensor, edited: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Show source and edit of each slice in one random way, alike; with gradients if enabled.

    Args:
        source: Normalised slices, shape ``(slices, 1, size, size)``.
        edited: The edits, same shape.
        masks: What to turn and scale with them, shape ``(slices, masks, size, size)``.
        generator: Draws the way.

    Returns:
        The three as they are seen.
    """
    both = torch.cat([source, edited, masks], dim=1)
    moved = grid_sample(both, _grid(both, generator), mode="bilinear", padding_mode="border", align_corners=False)
    images, seen_masks = moved[:, :2], moved[:, 2:]
    blur = torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    images = torch.lerp(images, avg_pool2d(images, 3, stride=1, padding=1), blur)
    gamma = torch.exp(LARGEST_GAMMA * _uniform(len(images), generator))[:, None, None, None].to(images)
    images = images * (images**2 + 1e-3) ** ((gamma - 1) / 2)
    level = MOST_NOISE * torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    images = images + level * torch.randn(images[:, :1].shape, generator=generator).to(images)
    return images[:, :1], images[:, 1:], seen_masks


def _grid(images: Tensor, generator: torch.Generator) -> Tensor:
    zoom = torch.exp(LARGEST_ZOOM * _uniform(len(images), generator))
    angle = LARGEST_ANGLE * _uniform(len(images), generator)
    mirrored = torch.where(torch.rand(len(images), generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine, nought = zoom * torch.cos(angle), zoom * torch.sin(angle), torch.zeros(len(images))
    theta = torch.stack([cosine * mirrored, -sine, nought, sine * mirrored, cosine, nought], dim=1).view(-1, 2, 3)
    return affine_grid(theta.to(images), list(images.shape), align_corners=False)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """Draw from -1 to 1."""
    return 2 * torch.rand(count, generator=generator) - 1
