"""How sharp images are, by spatial frequency, and how to give back what an estimate lost.

The best estimate of a noisy image is blurred: where noise hides a frequency, the mean of what it could be is small. An
estimate with the power of the original at each frequency is farther from it, but looks as sharp.

Source: power spectrum equalisation, Castleman, Digital Image Processing, 1996, section 16.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Bands of spatial frequency and their width in cycles per pixel; together they reach the corner of k-space.
BANDS, _BAND_WIDTH = 8, 0.09


def band_power(images: Tensor) -> Tensor:
    """Power of some images together in each band.

    Args:
        images: Shape ``(batch, size, size)``.

    Returns:
        float64, shape ``(BANDS,)``.
    """
    power = torch.fft.fft2(images.double()).abs().square().sum(dim=0)
    band = (_frequency(images) / _BAND_WIDTH).long().clamp(max=BANDS - 1)
    return torch.zeros(BANDS, dtype=torch.float64, device=images.device).index_add_(0, band.flatten(), power.flatten())


def sharpened(images: Tensor, log_gain: Tensor) -> Tensor:
    """Raise the frequencies of images.

    Args:
        images: Shape ``(batch, 1, size, size)``.
        log_gain: Logarithm of the gain in the middle of each band, interpolated between, shape ``(BANDS,)``.
    """
    place = (_frequency(images) / _BAND_WIDTH - 0.5).clamp(0, BANDS - 1)
    low = place.long().clamp(max=BANDS - 2)
    share = place - low
    gain = torch.exp((1 - share) * log_gain[low] + share * log_gain[low + 1])
    result: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    return result


def _frequency(images: Tensor) -> Tensor:
    """Distance of each point of k-space from its centre, in cycles per pixel."""
    rows, columns = (torch.fft.fftfreq(size, device=images.device) for size in images.shape[-2:])
    return torch.hypot(rows[:, None], columns[None, :])
