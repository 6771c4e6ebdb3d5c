"""Turn fat into fibroglandular tissue or back, pixel by pixel: each gets the level that the other tissue has nearby.

A network says where; what a pixel becomes is what tissue looks like in this slice. A change of intensity alone, free
to be anything, ends where the segmenter it was tuned against changes its mind, and half-bright borders please nobody
else. Gland that becomes fat takes its border along: pixels that hold both tissues, and in opposed phase the dark line
where their signals cancel, would be left behind as the outline of gland that is not there any more.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad, softplus

#: Width of the Gaussian over which the level of a tissue is taken, in pixels.
LEVEL_SIGMA_PIXELS = 3.0
#: The same for what counts as the border of gland, and the part of that neighbourhood that makes a pixel all border.
BORDER_SIGMA_PIXELS, ALL_BORDER = 2.0, 0.25
#: How far a pixel may lie from the level of its tissue and keep that, in standard deviations of fat about its level.
TEXTURE_REACH = 2.0
#: Pixels of a tissue below which a slice does not show how bright it is.
LEAST_PIXELS = 4.0
#: How fast a pixel turns as the network's answer rises, how far it is turned where that is 0, and the amount that a
#: change by a factor of e makes of it.
STEEPNESS, REST, GAIN = 6.0, -2.0, 10.0


def converted(images: Tensor, gland: Tensor, breast: Tensor, where: Tensor, ratio: Tensor) -> Tensor:
    """Convert tissue where a network says so; with gradients if enabled.

    Args:
        images: Normalised slices, shape ``(slices, 1, size, size)``.
        gland: How surely a pixel is fibroglandular, 0 to 1, same shape.
        breast: 1 in the breast, same shape.
        where: The network's answer, any numbers, same shape.
        ratio: Wanted over present share of each slice, shape ``(slices,)``; above 1 fat is converted, below 1 gland.

    Returns:
        Change in normalised intensity, shape of ``images``; 0 outside the breast and in slices with one tissue only.
    """
    gland, fat = gland * breast, (1 - gland) * breast
    known = torch.stack([weight.sum((1, 2, 3)) > LEAST_PIXELS for weight in (gland, fat)]).all(dim=0)
    gland_near = _blurred(gland, BORDER_SIGMA_PIXELS)
    border = (gland_near / ALL_BORDER).clamp(max=1)
    gland_level = _level(images, gland)
    # Fat that borders on gland is darker or brighter than fat; it counts only where there is hardly any other.
    fat_level = _level(images, fat * (1 - border + 1e-3))
    asked = torch.log(ratio).abs()[:, None, None, None]
    turned = 1 - torch.exp(-GAIN * asked * softplus(STEEPNESS * where + REST))
    more = fat * turned * (gland_level - fat_level)
    lost = _blurred(gland * turned, BORDER_SIGMA_PIXELS) / (gland_near + 1e-3)
    # Noise and texture stay; what lies further off than they reach was border.
    clear = fat * (1 - border)
    reach = (
        TEXTURE_REACH * (((images - fat_level) ** 2 * clear).sum((1, 2, 3)) / clear.sum((1, 2, 3)).clamp(min=1)).sqrt()
    )
    less = gland * turned * (fat_level - images + _within(images - gland_level, reach))
    less = less + fat * border * lost * (fat_level - images + _within(images - fat_level, reach))
    return torch.where((ratio >= 1)[:, None, None, None], more, less) * known[:, None, None, None]


def _within(residual: Tensor, reach: Tensor) -> Tensor:
    """Residuals as they are well within reach, falling to 0 beyond it."""
    return residual / (1 + (residual / reach.clamp(min=1e-6)[:, None, None, None]) ** 4)


def _level(images: Tensor, weight: Tensor) -> Tensor:
    """Gaussian mean of a tissue; far from all of it, its mean over the slice."""
    near = _blurred(weight, LEVEL_SIGMA_PIXELS)
    mean = (images * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1e-3)
    # The mean over the slice weighs as much as a thousandth of a neighbourhood full of the tissue.
    return (_blurred(images * weight, LEVEL_SIGMA_PIXELS) + 1e-3 * mean) / (near + 1e-3)


def _blurred(images: Tensor, sigma_pixels: float) -> Tensor:
    reach = math.ceil(3 * sigma_pixels)
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_pixels) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    rows = conv2d(pad(images, (reach, reach, 0, 0), mode="replicate"), kernel)
    return conv2d(pad(rows, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3))
