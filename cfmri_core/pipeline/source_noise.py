"""The noise of a scan: measured, and changed to that of another protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.diffusion.sampling import independent_noise
from cfmri_core.slices import SliceStack

#: Normalised intensity from which noise is measured: less is air or nearly.
_TISSUE_INTENSITY = 0.3


@dataclass(frozen=True)
class SourceNoise:
    """The noise of some slices of one scan.

    The scale puts 0 at the 10th percentile, which in a magnitude image with air is noise. No signal at all lies *below*
    0, the further the noisier the scan is: without noise, air is darker than the 0 of a noisy scan, and tissue is not
    brighter.

    Attributes:
        noise: What is left of the slices when signal is taken away, normalised intensity, ``(slices, 1, size, size)``.
        level: Standard deviation of the noise.
        floor: How far below 0 no signal lies.
    """

    noise: Tensor
    level: float
    floor: float

    @classmethod
    def measured(cls, images: Tensor, shown: Tensor, low_signal: float) -> Self:
        """Measure it.

        Args:
            images: The slices.
            shown: Tissue in them, without noise; 0 in air. Same shape.
            low_signal: What 0 stands for, above no signal at all, on the same scale. Where the field of view holds no
                air that is tissue: more than one standard deviation is not believed (0.46 of them lie below a tenth of
                air, more where interpolation hides noise from the measurement).
        """
        level = _level(images - shown, shown)
        floor = min(low_signal, level)
        return cls(images - (_signal(shown, floor) - floor), level, floor)

    def changed(self, clean: Tensor, ratio: float, way: str, seed: int, first_slice: int) -> Tensor:
        """Return slices without noise, of another protocol, with the noise it would have, or with none.

        Args:
            clean: Slices without noise, same shape.
            ratio: Noise of the other protocol over that of the source's.
            way: ``remove``; ``scale``, with that of the source times ``ratio``; or ``renew``, with new noise.
            seed: Of new noise.
            first_slice: Number of the first slice in the volume; each slice has its pattern by its number.
        """
        floor = ratio * self.floor
        signal = _signal(clean, floor)
        if way == "renew":
            signal = _with_noise(signal, ratio * self.level, seed, first_slice)
        elif way == "scale":
            signal = signal + ratio * self.noise
        return signal - floor


def renewed_finer_noise(
    noise: NDArray[np.float32], stack: SliceStack, *, ratio: float, seed: int, first_slice: int
) -> NDArray[np.float32]:
    """Draw noise that is finer than the network sees, in place of such noise.

    Args:
        noise: Of the source, normalised intensity, shape ``(slices, rows, columns)``.
        stack: How its slices become network images.
        ratio: Level of the new noise over that of the source.
        seed: Of the noise.
        first_slice: Number of the first slice in the volume; each slice has its pattern by its number.
    """
    count, rows, columns = noise.shape
    numbers = list(range(first_slice, first_slice + count))
    white = independent_noise(seed, numbers, rows, columns)(2)[:, 0].numpy()
    finer = white - stack.at_native_size(stack.images(white))[:, 0]
    spread = float(finer.std())
    return np.asarray(ratio * float(noise.std()) / spread * finer if spread else finer, dtype=np.float32)


def _signal(shown: Tensor, floor: float) -> Tensor:
    """Signal above none at all: that much more than shown in tissue, and none where nothing is shown."""
    return torch.sqrt(((shown + floor) ** 2 - floor**2).clamp(min=0))


def _level(rest: Tensor, shown: Tensor) -> float:
    """Standard deviation of the noise in what the maps leave unexplained, in tissue.

    The mixed difference over a square of four pixels cancels what varies smoothly, and the median is not moved by the
    few edges that are left.
    """
    mixed = (rest[..., 1:, 1:] - rest[..., :-1, 1:] - rest[..., 1:, :-1] + rest[..., :-1, :-1]) / 2
    tissue = shown > _TISSUE_INTENSITY
    inside = tissue[..., 1:, 1:] & tissue[..., :-1, 1:] & tissue[..., 1:, :-1] & tissue[..., :-1, :-1]
    # 1.4826: from the median of absolute values to the standard deviation of a normal distribution.
    return float(1.4826 * mixed[inside].abs().median()) if inside.any() else 0.0


def _with_noise(images: Tensor, level: float, seed: int, first_slice: int) -> Tensor:
    """Add complex Gaussian noise and take the magnitude."""
    numbers = list(range(first_slice, first_slice + len(images)))
    pattern = independent_noise(seed, numbers, *images.shape[2:])
    real, imaginary = level * pattern(0), level * pattern(1)
    return torch.sqrt((images + real) ** 2 + imaginary**2)
