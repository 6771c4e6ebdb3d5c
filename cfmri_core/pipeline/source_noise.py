"""The noise of a scan: measured, and removed, scaled or drawn anew.

The intensity scale puts 0 at the 10th percentile, which in a magnitude image with air is noise. No signal at all lies
*below* 0, the further the noisier the scan is: without noise, air is darker than the 0 of a noisy scan, and tissue is
not brighter.
"""

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
TISSUE_INTENSITY = 0.3
#: Standard deviations of the noise between no signal and the 10th percentile of air (Rayleigh distribution).
_AIR_TENTH = 0.459


@dataclass(frozen=True)
class NoiseLevel:
    """How strong the noise of a scan is: measured on some of its slices, and the same for all.

    Attributes:
        level: Standard deviation of the noise, normalised intensity.
        floor: How far below 0 no signal lies.
    """

    level: float
    floor: float

    @classmethod
    def measured(cls, images: Tensor, shown: Tensor, low_signal: float) -> Self:
        """Measure it; arguments as in `SourceNoise.measured`."""
        level = _level(images - shown, shown)
        if level is None:  # air alone: it is told from the scale
            level = low_signal / _AIR_TENTH
        return cls(level, min(low_signal, level))


@dataclass(frozen=True)
class SourceNoise:
    """The noise of some slices of one scan.

    Attributes:
        noise: What is left of the slices when signal is taken away, normalised intensity, ``(slices, 1, size, size)``.
        level: Standard deviation of the noise.
        floor: How far below 0 no signal lies.
    """

    noise: Tensor
    level: float
    floor: float

    @classmethod
    def measured(cls, images: Tensor, shown: Tensor, low_signal: float, known: NoiseLevel | None = None) -> Self:
        """Measure it.

        Args:
            images: The slices.
            shown: Tissue in them, without noise; 0 in air. Same shape.
            low_signal: What 0 stands for, above no signal at all, on the same scale. Where the field of view holds no
                air that is tissue: more than one standard deviation of the noise is not believed (0.46 of them lie
                below a tenth of air, more where interpolation hides noise from the measurement).
            known: Of the whole scan; ``None`` measures the level on these slices.
        """
        of = known or NoiseLevel.measured(images, shown, low_signal)
        return cls(images - (_signal(shown, of.floor) - of.floor), of.level, of.floor)

    def removed(self, clean: Tensor) -> Tensor:
        """Return slices as they are without noise.

        Args:
            clean: Tissue as it is to be shown, without noise and 0 in air, on the scale of the source.
        """
        return _signal(clean, self.floor) - self.floor

    def scaled(self, clean: Tensor, ratio: float) -> Tensor:
        """Return slices with the noise of the source times ``ratio``; ``clean`` as in `removed`."""
        return self.removed(clean) + ratio * self.noise

    def renewed(self, clean: Tensor, ratio: float, seed: int, first_slice: int) -> Tensor:
        """Return slices with new noise, complex Gaussian before the magnitude.

        Args:
            clean: As in `removed`.
            ratio: Its level over that of the source.
            seed: Of the noise.
            first_slice: Number of the first slice in the volume; each slice has its pattern by its number.
        """
        numbers = list(range(first_slice, first_slice + len(clean)))
        pattern = independent_noise(seed, numbers, *clean.shape[2:])
        real, imaginary = ratio * self.level * pattern(0), ratio * self.level * pattern(1)
        return torch.sqrt((_signal(clean, self.floor) + real) ** 2 + imaginary**2) - self.floor


def renewed_finer_noise(
    noise: NDArray[np.float32], level: float, stack: SliceStack, *, ratio: float, seed: int, first_slice: int
) -> NDArray[np.float32]:
    """Draw noise that is finer than the network sees, in place of such noise.

    Args:
        noise: Of the source, normalised intensity, shape ``(slices, rows, columns)``.
        level: Its standard deviation in tissue.
        stack: How its slices become network images.
        ratio: Level of the new noise over that of the source.
        seed: Of the noise.
        first_slice: Number of the first slice in the volume; each slice has its pattern by its number.
    """
    count, rows, columns = noise.shape
    numbers = list(range(first_slice, first_slice + count))
    white = independent_noise(seed, numbers, rows, columns)(2)[:, 0].numpy()
    finer = white - stack.at_native_size(stack.images(white))[:, 0]
    # Slice by slice, so that a slice has the same noise whichever others are edited with it.
    spread = finer.std(axis=(1, 2), keepdims=True)
    return np.asarray(ratio * level * finer / np.where(spread > 0, spread, 1), dtype=np.float32)


def robust_spread(values: NDArray[np.float32]) -> float:
    """Standard deviation of values about 0 that are normally distributed but for some; 0 without values."""
    # 1.4826: from the median of absolute values to the standard deviation of a normal distribution.
    return 1.4826 * float(np.median(np.abs(values))) if values.size else 0.0


def _signal(shown: Tensor, floor: float) -> Tensor:
    """Signal above none at all: that much more than shown in tissue, and none where nothing is shown."""
    # Close to sqrt((shown + floor)^2 - floor^2), but at most twice what is shown, which in air is not exactly 0.
    shown = shown.clamp(min=0)
    return shown * (shown + 2 * floor) / (shown + floor).clamp(min=1e-6)


def _level(rest: Tensor, shown: Tensor) -> float | None:
    """Standard deviation of the noise in what the maps leave unexplained, in tissue; ``None`` where there is none.

    The mixed difference over a square of four pixels cancels what varies smoothly, and the median is not moved by the
    few edges that are left.
    """
    mixed = (rest[..., 1:, 1:] - rest[..., :-1, 1:] - rest[..., 1:, :-1] + rest[..., :-1, :-1]) / 2
    tissue = shown > TISSUE_INTENSITY
    inside = tissue[..., 1:, 1:] & tissue[..., :-1, 1:] & tissue[..., 1:, :-1] & tissue[..., :-1, :-1]
    return robust_spread(mixed[inside].cpu().numpy()) if inside.any() else None
