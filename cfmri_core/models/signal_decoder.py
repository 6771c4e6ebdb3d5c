"""The physics decoder: pseudo maps of a slice and the signal equation that shows them under any protocol.

The equation is that of a spoiled gradient echo of water and fat. What has no equation is learned as a few
numbers: per scanner model a k-space window, a level of noise and how much receive inhomogeneity it leaves, per
model and scan option how much fat its suppression leaves. The maps are called pseudo maps because one image cannot
determine them; only what they predict is of use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor, nn

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.conditioning import CONTINUOUS, ConditionSpec
from cfmri_core.models.sharpness import BANDS
from cfmri_core.simulation.signal import GYROMAGNETIC_RATIO_MHZ_PER_T
from cfmri_core.simulation.tissues import (
    FAT_PEAK_AMPLITUDES,
    FAT_PEAKS_PPM,
    FAT_T1_MS,
    FAT_T2_STAR_MS,
    WATER_POOLS,
    Tissue,
)

#: Water that the maps of relaxation times are relative to.
_REFERENCE = WATER_POOLS[Tissue.FIBROGLANDULAR]
#: Least distance of neighbouring slices across which a change of slice thickness is worked out, in mm.
_LEAST_DISTANCE_MM = 0.6
#: Ends of what a slice takes on of either neighbour: three slices in equal parts, and as much the other way. Beyond
#: them three slices do not tell what a profile would show.
_SHARES = (-1 / 3, 1 / 3)
#: Slices 2.3 mm apart show only part of a map's curvature: with 1, a change of thickness was half of what it should be;
#: with 2, all of it, but farther from the truth. Chosen between these on 6 simulated training subjects held back.
_CURVATURE_UNSEEN = 1.8
#: From the full width at half maximum of a Gaussian slice profile to its standard deviation.
_WIDTH_TO_SIGMA = 1 / math.sqrt(8 * math.log(2))
#: The few numbers of a scanner learn this much faster than the network: they start far from their values.
_STYLE_SPEED = 3.0
#: Smooth maps are predicted at a resolution lower by this factor.
_COARSE = 8
_FINE_MAPS, _COARSE_MAPS = 5, 4
#: Ends of the logarithm of T2* over the reference: from the air-filled tissue of the lung (1 ms) to free fluid.
_LOG_T2_STAR = (-3.6, 2.0)
#: Channels that a network has to return for `SignalDecoder.maps`.
CHANNELS = _FINE_MAPS + _COARSE_MAPS


@dataclass(frozen=True)
class PseudoMaps:
    """What slices are made of, as far as the signal equation asks; each float32, shape ``(batch, rows, cols)``.

    Attributes:
        water: Amount of water; 1 gives a signal of 1 in normalised intensity under the source's protocol.
        fat: Amount of fat, on the scale of water.
        log_t1: Logarithm of the T1 of water over that of fibroglandular tissue, at 1.5 T.
        log_t2_star: The same for T2*, at 1.5 T.
        t1_rise: By how much more than that tissue's T1 this one's grows when the field doubles, a logarithm.
        transmit: Relative deviation of the flip angle at 1.5 T.
        receive: Coil sensitivity.
        residual_fat: Logarithm of the factor on the fat that suppression leaves.
        shim: What off-resonance adds to that fat at 3 T, relative; not negative.
    """

    water: Tensor
    fat: Tensor
    log_t1: Tensor
    log_t2_star: Tensor
    t1_rise: Tensor
    transmit: Tensor
    receive: Tensor
    residual_fat: Tensor
    shim: Tensor

    @classmethod
    def joined(cls, parts: Sequence[PseudoMaps]) -> PseudoMaps:
        """Put batches below each other."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def rows(self, index: slice) -> PseudoMaps:
        """Choose slices."""
        return PseudoMaps(**{name: value[index] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> PseudoMaps:
        """Move to a device."""
        return PseudoMaps(**{name: value.to(device) for name, value in vars(self).items()})

    def repeated(self, times: int) -> PseudoMaps:
        """Return each slice so many times in a row."""
        return PseudoMaps(**{name: value.repeat_interleave(times, dim=0) for name, value in vars(self).items()})

    def mirrored(self) -> PseudoMaps:
        """Left and right change sides."""
        return PseudoMaps(**{name: value.flip(-1) for name, value in vars(self).items()})

    def averaged(self, other: PseudoMaps) -> PseudoMaps:
        """Return the mean with other maps of the same slices."""
        return PseudoMaps(**{name: (value + getattr(other, name)) / 2 for name, value in vars(self).items()})

    def steadied(self, kernel: Tensor) -> PseudoMaps:
        """Smooth the maps of coils and fields across the slices of one volume, the ends repeated.

        A slice alone leaves them a little free; free by itself, each slice would get a gain of its own.

        Args:
            kernel: Weights of neighbouring slices, sum 1, odd length.
        """
        names = [field.name for field in dataclasses.fields(self)][_FINE_MAPS:]
        return dataclasses.replace(self, **{name: _across(getattr(self, name), kernel) for name in names})

    def with_more_fat_left(self, logarithm: float) -> PseudoMaps:
        """Add to the logarithm of what suppression leaves of the fat."""
        return dataclasses.replace(self, residual_fat=self.residual_fat + logarithm)

    def with_thickness(self, from_mm: float, to_mm: float, slice_distance_mm: float) -> PseudoMaps:
        """Show the same slices of one volume as thick as asked for; the ends take themselves for neighbours.

        Args:
            from_mm: Slice thickness of the source.
            to_mm: Slice thickness to show.
            slice_distance_mm: Between the centres of neighbouring slices.
        """
        share = thickness_share(from_mm, to_mm, slice_distance_mm)
        kernel = torch.tensor([share, 1 - 2 * share, share])
        amounts = {name: _across(getattr(self, name), kernel).clamp(min=0) for name in ("water", "fat")}
        return dataclasses.replace(self, **amounts)


@dataclass(frozen=True)
class Protocols:
    """Acquisition parameters as tensors, one row per image.

    Attributes:
        numbers: By name: field strength, flip angle, slice thickness, echo and repetition time, shape ``(batch,)``.
        models: Weight of each scanner model, rows of sum 1.
        options: Weight of each combination of scan options, rows of sum 1.
        is_suppressed: 1 where fat is suppressed, else 0; shape ``(batch,)``.
    """

    numbers: dict[str, Tensor]
    models: Tensor
    options: Tensor
    is_suppressed: Tensor

    @classmethod
    def of(cls, parameters: Sequence[AcquisitionParameters], spec: ConditionSpec) -> Protocols:
        """Gather parameters. What is unknown gets the middle of the trained range, or all categories alike."""
        encoded = spec.encode_all(parameters)
        numbers = {
            name: torch.tensor([_known(getattr(one, name), spec.ranges[name]) for one in parameters])
            for name in CONTINUOUS
        }
        fields = [float(value) for value in spec.categories["field_strength_t"]]
        numbers["field_strength_t"] = torch.tensor(
            [_known(one.field_strength_t, (min(fields), max(fields))) for one in parameters]
        )
        models, options = (_weights(encoded[:, spec.blocks[name]]) for name in ("manufacturer_model", "scan_options"))
        is_suppressed = torch.tensor([float(suppresses_fat(one.scan_options)) for one in parameters])
        return cls(numbers, models, options, is_suppressed)

    def to(self, device: torch.device) -> Protocols:
        """Move to a device."""
        return self._each(lambda value: value.to(device))

    def rows(self, index: Tensor | Sequence[int]) -> Protocols:
        """Choose rows."""
        return self._each(lambda value: value[index])

    def expand(self, batch: int) -> Protocols:
        """Repeat one row."""
        return self._each(lambda value: value.expand(batch, *value.shape[1:]))

    @classmethod
    def joined(cls, parts: Sequence[Protocols]) -> Protocols:
        """Put rows below each other."""
        numbers = {name: torch.cat([part.numbers[name] for part in parts]) for name in parts[0].numbers}
        others = (torch.cat([getattr(part, name) for part in parts]) for name in ("models", "options", "is_suppressed"))
        return cls(numbers, *others)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Protocols:
        numbers = {name: change(value) for name, value in self.numbers.items()}
        return Protocols(numbers, change(self.models), change(self.options), change(self.is_suppressed))

    def is_same(self, other: Protocols) -> bool:
        """Whether both say the same, row by row."""
        mine, theirs = ((*one.numbers.values(), one.models, one.options, one.is_suppressed) for one in (self, other))
        return all(map(torch.equal, mine, theirs))

    def column(self, name: str) -> Tensor:
        """Return a number, shape ``(batch, 1, 1)``."""
        return self.numbers[name][:, None, None]


class SignalDecoder(nn.Module):
    """Turns network channels into pseudo maps, and pseudo maps into images.

    Args:
        models: Number of scanner models.
        options: Number of combinations of scan options.
        image_size: Rows and columns of a slice.
    """

    hann: Tensor
    peaks: Tensor
    amplitudes: Tensor
    lost_sharpness: Tensor

    def __init__(self, models: int, options: int, image_size: int) -> None:
        super().__init__()
        self.window = nn.Parameter(torch.zeros(models))
        self.receive_left = nn.Parameter(torch.zeros(models))
        self.fat_left = nn.Parameter(torch.full((models,), -0.6))
        self.fat_left_by_options = nn.Parameter(torch.zeros(options))
        self.transmit_exponent = nn.Parameter(torch.zeros(()))
        self.noise = nn.Parameter(torch.zeros(models))
        hann = torch.fft.ifftshift(torch.hann_window(image_size + 1, periodic=False)[:-1])
        self.register_buffer("hann", hann, persistent=False)
        self.register_buffer("peaks", torch.tensor(FAT_PEAKS_PPM), persistent=False)
        self.register_buffer("amplitudes", torch.tensor(FAT_PEAK_AMPLITUDES), persistent=False)
        # Measured after training, see `cfmri_core.training.lost_sharpness`: by scanner model of the source.
        self.register_buffer("lost_sharpness", torch.zeros(models, BANDS))

    def maps(self, channels: Tensor, middle: Tensor, source: Protocols) -> PseudoMaps:
        """Read pseudo maps off the network's output.

        Args:
            channels: Shape ``(batch, CHANNELS, rows, cols)``; 0 is a plain guess: what is dim is fat.
            middle: The slices themselves, normalised intensity, shape ``(batch, rows, cols)``.
            source: How they were acquired.
        """
        fine, coarse = torch.split(channels, [_FINE_MAPS, _COARSE_MAPS], dim=1)
        coarse = F.avg_pool2d(coarse, _COARSE)
        coarse = F.interpolate(coarse, scale_factor=_COARSE, mode="bilinear", align_corners=False)
        plain = torch.zeros_like(middle)
        unit = 1 / _steady_state(*_relaxation(plain, plain, plain, source), source.column("flip_angle_deg"), source)
        amount = F.softplus(4 * (fine[:, 0] + (4 * middle).clamp(0, 1))) / 4 * unit
        share = torch.sigmoid(4 * fine[:, 1] + 6 * (0.55 - middle))
        return PseudoMaps(
            water=amount * (1 - share),
            fat=amount * share,
            log_t1=0.4 * torch.tanh(fine[:, 2]),
            log_t2_star=_between_ends(2.0 * fine[:, 3], *_LOG_T2_STAR),
            t1_rise=0.4 * torch.tanh(fine[:, 4]),
            transmit=0.3 * torch.tanh(coarse[:, 0]),
            receive=torch.exp(1.5 * torch.tanh(coarse[:, 1])),
            residual_fat=0.8 * torch.tanh(coarse[:, 2]),
            shim=F.softplus(2 * coarse[:, 3] - 1),
        )

    def forward(self, maps: PseudoMaps, protocols: Protocols) -> Tensor:
        """Show maps under a protocol, all but its slice thickness: see `PseudoMaps.with_thickness`.

        Args:
            maps: Of ``batch`` slices.
            protocols: One row per slice.

        Returns:
            Magnitude in normalised intensity of the source, noise-free, shape ``(batch, rows, cols)``.
        """
        field = protocols.column("field_strength_t")
        exponent = 0.68 + _STYLE_SPEED * self.transmit_exponent
        flip = protocols.column("flip_angle_deg") * (1 + maps.transmit * (field / 1.5) ** exponent)
        water = _steady_state(*_relaxation(maps.log_t1, maps.log_t2_star, maps.t1_rise, protocols), flip, protocols)
        fat = _steady_state(_between(FAT_T1_MS, field), _between(FAT_T2_STAR_MS, field), flip, protocols)
        left = protocols.models @ self.fat_left + protocols.options @ self.fat_left_by_options
        left = torch.sigmoid(_STYLE_SPEED * left)[:, None, None]
        left = left * torch.exp(maps.residual_fat) * (1 + maps.shim * field / 3.0)
        left = torch.where(protocols.is_suppressed[:, None, None] > 0, left, 1.0)
        fat, water = maps.fat * fat * left, maps.water * water
        phase = 2 * math.pi * 1e-3 * GYROMAGNETIC_RATIO_MHZ_PER_T * field * protocols.column("echo_time_ms")
        phase = phase * self.peaks
        real = (self.amplitudes * torch.cos(phase)).sum(-1, keepdim=True)
        imaginary = (self.amplitudes * torch.sin(phase)).sum(-1, keepdim=True)
        coil = torch.sigmoid(_STYLE_SPEED * (protocols.models @ self.receive_left))[:, None, None]
        coil = (1 + coil * (maps.receive - 1)).clamp(min=0.05)
        return self._windowed(torch.complex((water + fat * real) * coil, fat * imaginary * coil), protocols)

    def log_noise(self, protocols: Protocols) -> Tensor:
        """Logarithm of the noise of a protocol, up to a constant, shape ``(batch,)``.

        Physics gives its fall with field strength, voxel volume and the root of the time spent; the rest is the
        scanner's own. Source: Brown et al., Magnetic Resonance Imaging, 2nd ed., chapter 15.
        """
        numbers = protocols.numbers
        spent = 0.5 * torch.log(numbers["repetition_time_ms"])
        fall = torch.log(numbers["field_strength_t"]) + torch.log(numbers["slice_thickness_mm"]) + spent
        scanner: Tensor = protocols.models @ self.noise
        return scanner - fall

    def _windowed(self, signal: Tensor, protocols: Protocols) -> Tensor:
        strength = torch.sigmoid(_STYLE_SPEED * (protocols.models @ self.window))[:, None]
        taper = 1 - strength * (1 - self.hann)
        kspace = torch.fft.fft2(signal) * taper[:, :, None] * taper[:, None, :]
        image = torch.fft.ifft2(kspace)
        # Not abs(): its gradient is not defined at 0, and air is 0.
        return torch.sqrt(image.real**2 + image.imag**2 + 1e-8)


def thickness_share(from_mm: float, to_mm: float, slice_distance_mm: float) -> float:
    """Share of either neighbour that a slice takes on when its thickness changes, at most a third.

    It is negative for a thinner one.
    A Gaussian profile whose variance grows by v adds v/2 times the second derivative across slices, here as second
    difference. Source: the heat equation; the full width at half maximum is the slice thickness.
    """
    variance = (to_mm**2 - from_mm**2) * _WIDTH_TO_SIGMA**2
    share = _CURVATURE_UNSEEN * 0.5 * variance / max(slice_distance_mm, _LEAST_DISTANCE_MM) ** 2
    return min(max(share, _SHARES[0]), _SHARES[1])


def suppresses_fat(scan_options: str | None) -> bool:
    """Whether scan options name fat saturation; assumed where they are unknown, as is usual in breast MRI.

    Source: DICOM PS3.3 C.8.3.1.1, Scan Options (0018,0022): defined term FS; Siemens writes SFS for its own.
    """
    return scan_options is None or any(option in ("FS", "SFS") for option in scan_options.split("\\"))


def _relaxation(log_t1: Tensor, log_t2_star: Tensor, t1_rise: Tensor, protocols: Protocols) -> tuple[Tensor, Tensor]:
    """T1 and T2* of water in ms at the field of the protocols.

    T1 grows with a power of the field, each tissue with its own (Bottomley et al., Med Phys 1984;11:425). A T2* shorter
    than the reference is due to susceptibility, whose rate grows in proportion to the field (Yablonskiy & Haacke, Magn
    Reson Med 1994;32:749).
    """
    field = protocols.column("field_strength_t")
    t1, t2_star = _between(_REFERENCE.t1_ms, field), _between(_REFERENCE.t2_star_ms, field)
    at_1_5_t = _REFERENCE.t2_star_ms[0]
    susceptibility = (torch.exp(-log_t2_star.clamp(max=0)) - 1) / at_1_5_t * (field / 1.5)
    rate = torch.exp(-log_t2_star.clamp(min=0)) / t2_star + susceptibility
    return t1 * torch.exp(log_t1 + t1_rise * torch.log2(field / 1.5)), 1 / rate


def _between_ends(values: Tensor, low: float, high: float) -> Tensor:
    """Bend values into a range that has 0 inside, with slope 1 there."""
    return torch.where(values < 0, -low * torch.tanh(values / -low), high * torch.tanh(values / high))


def _steady_state(t1_ms: Tensor, t2_star_ms: Tensor, flip_angle_deg: Tensor, protocols: Protocols) -> Tensor:
    """As `cfmri_core.simulation.signal.spoiled_gradient_echo`, with gradients."""
    flip = torch.deg2rad(flip_angle_deg)
    e1 = torch.exp(-protocols.column("repetition_time_ms") / t1_ms)
    decay = torch.exp(-protocols.column("echo_time_ms") / t2_star_ms)
    return torch.sin(flip) * (1 - e1) / (1 - torch.cos(flip) * e1) * decay


def _between(at_1_5_and_3: tuple[float, float], field_strength_t: Tensor) -> Tensor:
    low, high = at_1_5_and_3
    return low * (high / low) ** torch.log2(field_strength_t / 1.5)


def _known(value: float | None, limits: tuple[float, float]) -> float:
    return sum(limits) / 2 if value is None else float(value)


def _weights(one_hot: Tensor) -> Tensor:
    """One-hot rows as they are; a row of zeros, an unknown value, becomes the mean of all."""
    known = one_hot.sum(dim=1, keepdim=True) > 0
    return torch.where(known, one_hot, torch.full_like(one_hot, 1 / one_hot.shape[1]))


def _across(values: Tensor, kernel: Tensor) -> Tensor:
    reach = len(kernel) // 2
    number = torch.arange(len(values), device=values.device)
    shifted = [values[(number + offset).clamp(0, len(values) - 1)] for offset in range(-reach, reach + 1)]
    return torch.stack(shifted, dim=-1) @ kernel.to(values)
