"""Turn an anatomy into the volume a scanner would have reconstructed.

Physics: the spoiled-gradient-echo signal of water and fat, relaxation by field strength, B1 and B0
fields, averaging over the slice thickness, k-space truncation, Rician noise that falls with field,
voxel volume and repetition time.

Invented: the styles, coils and noise of a `Setting`. No first principle links a manufacturer, a model or a
scan option to an image; the styles only give each scanner a look that a network can learn and that is
undone when the scanner is changed. `cfmri simulate` repeats this in what it writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import AcquisitionError
from cfmri_core.simulation.anatomy import FINE_SPACING_MM, Anatomy, correlated_noise
from cfmri_core.simulation.contrast_agent import relaxivity_at
from cfmri_core.simulation.settings import DEFAULT, Setting, Style
from cfmri_core.simulation.signal import FloatArray, spoiled_gradient_echo, water_fat_signal
from cfmri_core.simulation.tissues import FAT_PROTON_DENSITY, Tissue, WaterPool
from cfmri_core.volume import Volume

#: In-plane reduction from the fine grid to the reconstructed matrix, and slices of the fine grid per slice.
IN_PLANE_REDUCTION = 2
SLICE_REDUCTION = 2
#: Factor from signal to stored units, so that tissue lies in the hundreds as on a scanner.
_GAIN = 30000.0
#: Siemens' SFS leaves more fat than FS here (invented); no fat suppression leaves all of it.
_OPTION_FACTOR = {"FS": 1.0, "SFS": 1.25}


@dataclass(frozen=True)
class Subject:
    """What stays the same when one subject is scanned twice: tissue values and fields.

    Attributes:
        t1_factor: Deviation of T1 from the tabulated mean per tissue, relative.
        fat_t1_factor: The same for the fat pool.
        suppression_factor: Subject's factor on residual fat (shim quality).
        off_resonance_ppm: B0 offset, shape ``(i, j, k)`` of the anatomy.
        b1_pattern: Transmit pattern, about zero; scaled by field strength.
        receive_pattern: Coil sensitivity pattern, positive, mean 1.
        setting: The simulated world the subject lives in: tissue means, noise, looks of the scanners.
        agent_mmol_per_l: Contrast agent in water, shape ``(i, j, k)``; ``None`` before it is given.
    """

    t1_factor: Mapping[int, float]
    fat_t1_factor: float
    suppression_factor: float
    off_resonance_ppm: FloatArray
    b1_pattern: FloatArray
    receive_pattern: FloatArray
    setting: Setting = DEFAULT
    agent_mmol_per_l: FloatArray | None = None


def draw_subject(anatomy: Anatomy, seed: int, setting: Setting = DEFAULT) -> Subject:
    """Draw tissue values and fields of one subject; the same seed and setting give the same subject."""
    rng = np.random.default_rng((seed, 3))
    shape = anatomy.tissue.shape
    pools = setting.water_pools
    t1_factor = {int(kind): 1 + pool.t1_spread * rng.standard_normal() for kind, pool in pools.items()}
    left = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None, None]
    back = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :, None]
    elements = [
        np.exp(-((left - coil.side * rng.uniform(*coil.lateral)) ** 2 + (back - coil.back) ** 2) / coil.width)
        for coil in setting.coils
    ]
    coils = np.broadcast_to(sum(elements) + setting.coil_floor, shape)
    receive = coils * np.exp(0.06 * correlated_noise(rng, shape, 28.0))
    b1 = setting.b1_tilt * np.broadcast_to(left, shape) + setting.b1_ripple * correlated_noise(rng, shape, 30.0)
    return Subject(
        t1_factor=t1_factor,
        fat_t1_factor=1 + setting.fat_t1_spread * rng.standard_normal(),
        suppression_factor=float(np.clip(np.exp(0.18 * rng.standard_normal()), 0.7, 1.4)),
        off_resonance_ppm=0.25 * correlated_noise(rng, shape, 24.0),
        b1_pattern=b1.astype(np.float32),
        receive_pattern=(receive / receive.mean()).astype(np.float32),
        setting=setting,
    )


def scan(anatomy: Anatomy, subject: Subject, parameters: AcquisitionParameters, *, noise_seed: int | None) -> Volume:
    """Acquire one volume.

    Args:
        anatomy: What lies in the scanner.
        subject: Its tissue values and fields; keep it to render a paired truth.
        parameters: Field strength, flip angle, slice thickness, echo and repetition time must be known.
        noise_seed: Seed of the noise; ``None`` renders without noise.

    Returns:
        Magnitude volume, float32, in arbitrary scanner units; its voxels are twice the fine grid's.

    Raises:
        AcquisitionError: A parameter the physics needs is unknown.
    """
    return scans(anatomy, subject, parameters, noise_seeds=[noise_seed])[0]


def scans(
    anatomy: Anatomy, subject: Subject, parameters: AcquisitionParameters, *, noise_seeds: Sequence[int | None]
) -> list[Volume]:
    """Acquire the same volume once per noise seed, at the price of one; see `scan`."""
    field, flip, thickness, echo, repetition = _needed(parameters)
    style = style_of(parameters, subject.setting)
    signal = _complex_signal(anatomy, subject, style, (field, flip, echo, repetition))
    signal *= (1 + style.bias * (subject.receive_pattern - 1)).clip(0.05)
    image = _truncated(_averaged_over_thickness(signal, thickness), style.window)
    volume_mm3 = (FINE_SPACING_MM * IN_PLANE_REDUCTION) ** 2 * thickness
    level = subject.setting.reference_noise * style.noise
    sigma = level * (1.5 / field) * (10.98 / volume_mm3) * np.sqrt(5.0 / repetition)
    noisy = [_with_noise(image, float(sigma), seed) for seed in noise_seeds]
    return [Volume((np.abs(one) * _GAIN).astype(np.float32), scanned_affine(anatomy)) for one in noisy]


def _with_noise(image: NDArray[np.complex64], sigma: float, seed: int | None) -> NDArray[np.complex64]:
    """Add complex Gaussian noise; its magnitude is Rician."""
    if seed is None:
        return image
    rng = np.random.default_rng((seed, 4))
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(sigma)
    return np.asarray(image + noise[0] + 1j * noise[1])


def style_of(parameters: AcquisitionParameters, setting: Setting = DEFAULT) -> Style:
    """The invented look of a scanner, with residual fat set by its scan options."""
    style = setting.styles.get(parameters.manufacturer_model or "", setting.other_style)
    options = (parameters.scan_options or "").split("\\")
    factors = [factor for option, factor in _OPTION_FACTOR.items() if option in options]
    residual = style.residual_fat * max(factors) if factors else 1.0
    return Style(style.window, style.bias, residual, style.noise)


def scanned_affine(anatomy: Anatomy) -> NDArray[np.float64]:
    """RAS affine of the reconstructed grid of an anatomy."""
    reduction = np.array([IN_PLANE_REDUCTION, IN_PLANE_REDUCTION, SLICE_REDUCTION])
    affine = anatomy.affine.copy()
    affine[:3, :3] = anatomy.affine[:3, :3] * reduction
    affine[:3, 3] += anatomy.affine[:3, :3] @ ((reduction - 1) / 2)
    return affine


def scanned_labels(anatomy: Anatomy) -> Volume:
    """Tissue labels (background 0, fat 1, fibroglandular 2) on the reconstructed grid, by majority."""
    return _by_majority(anatomy, anatomy.tissue_labels())


def scanned_lesions(anatomy: Anatomy) -> Volume:
    """Mask of the lesions (1) on the reconstructed grid, by majority."""
    return _by_majority(anatomy, (anatomy.tissue == Tissue.LESION).astype(np.uint8))


def _by_majority(anatomy: Anatomy, fine: NDArray[np.uint8]) -> Volume:
    i, j, k = (size // by for size, by in zip(fine.shape, (2, 2, SLICE_REDUCTION), strict=True))
    blocks = fine[: 2 * i, : 2 * j, : SLICE_REDUCTION * k].reshape(i, 2, j, 2, k, SLICE_REDUCTION)
    votes = np.stack([(blocks == value).sum(axis=(1, 3, 5)) for value in range(3)])
    return Volume(votes.argmax(axis=0).astype(np.uint8), scanned_affine(anatomy))


def _needed(parameters: AcquisitionParameters) -> tuple[float, float, float, float, float]:
    names = ("field_strength_t", "flip_angle_deg", "slice_thickness_mm", "echo_time_ms", "repetition_time_ms")
    values = [getattr(parameters, name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise AcquisitionError(f"{name} is unknown.", "The simulator needs it; give --set.", field=name)
    field, flip, thickness, echo, repetition = values
    return field, flip, thickness, echo, repetition


def _complex_signal(
    anatomy: Anatomy,
    subject: Subject,
    style: Style,
    timing: tuple[float, float, float, float],
) -> NDArray[np.complex64]:
    field, flip_deg, echo, repetition = timing
    b1 = 1 + subject.b1_pattern * (1.0 if field <= 1.5 else 1.6)
    flip = np.deg2rad(flip_deg) * b1.astype(np.float32)
    water = np.zeros(anatomy.tissue.shape, np.float32)
    density = np.zeros_like(water)
    for kind, pool in subject.setting.water_pools.items():
        where = anatomy.tissue == kind
        if pool.proton_density and where.any():
            t1_ms = _shortened(pool.t1_at(field) * subject.t1_factor[int(kind)], subject, where, field)
            water[where] = _pool_signal(pool, t1_ms, field, flip[where], echo, repetition)
            density[where] = pool.proton_density
    residual = _residual_fat(subject, style, field)
    fat = spoiled_gradient_echo(
        _between(subject.setting.fat_t1_ms, field) * subject.fat_t1_factor,
        _between(subject.setting.fat_t2_star_ms, field),
        flip,
        echo_time_ms=echo,
        repetition_time_ms=repetition,
    )
    fraction = anatomy.water_fraction
    return water_fat_signal(
        fraction * density * anatomy.texture * water,
        (1 - fraction) * FAT_PROTON_DENSITY * (density > 0) * residual * fat,
        echo_time_ms=echo,
        field_strength_t=field,
        off_resonance_ppm=subject.off_resonance_ppm,
    )


def _shortened(t1_ms: float, subject: Subject, where: NDArray[np.bool_], field: float) -> FloatArray | float:
    """T1 of the voxels of one tissue with the agent in them: rates add (1/T1 = 1/T1_0 + r1 C)."""
    if subject.agent_mmol_per_l is None:
        return t1_ms
    rate = 1 / t1_ms + relaxivity_at(field) * subject.agent_mmol_per_l[where] / 1000
    return np.asarray(1 / rate, dtype=np.float32)


def _pool_signal(
    pool: WaterPool, t1_ms: FloatArray | float, field: float, flip: FloatArray, echo: float, repetition: float
) -> FloatArray:
    return spoiled_gradient_echo(
        t1_ms,
        pool.t2_star_at(field),
        flip,
        echo_time_ms=echo,
        repetition_time_ms=repetition,
    )


def _between(at_1_5_and_3: tuple[float, float], field: float) -> float:
    low, high = at_1_5_and_3
    return float(low * (high / low) ** (np.log2(field / 1.5)))


def _residual_fat(subject: Subject, style: Style, field: float) -> FloatArray:
    """Fat left by suppression: more where the field is off, and more so at higher field, in [0, 1]."""
    if style.residual_fat >= 1.0:
        return np.ones_like(subject.off_resonance_ppm)
    local = 1 + 0.35 * np.abs(subject.off_resonance_ppm) / 0.25 * (field / 3.0)
    return np.asarray(np.clip(style.residual_fat * subject.suppression_factor * local, 0, 1), dtype=np.float32)


def _averaged_over_thickness(signal: NDArray[np.complex64], thickness_mm: float) -> NDArray[np.complex64]:
    """Average along the slice axis with a Gaussian profile of that full width, then over the fine slices of each slice.

    A slice is never sharper than the distance of slices, however thin it is said to be.
    """
    sigma = thickness_mm / 2.355 / FINE_SPACING_MM
    real = gaussian_filter1d(signal.real, sigma, axis=2, mode="nearest")
    imaginary = gaussian_filter1d(signal.imag, sigma, axis=2, mode="nearest")
    count = signal.shape[2] // SLICE_REDUCTION
    smooth = (real + 1j * imaginary)[:, :, : count * SLICE_REDUCTION]
    pairs = smooth.reshape(*smooth.shape[:2], count, SLICE_REDUCTION)
    return np.asarray(pairs.mean(axis=3), dtype=np.complex64)


def _truncated(slices: NDArray[np.complex64], window: float) -> NDArray[np.complex64]:
    """Keep the centre of k-space under a Hann window of the given strength: point spread and Gibbs ringing."""
    size = [slices.shape[axis] // IN_PLANE_REDUCTION for axis in (0, 1)]
    kspace = np.fft.fftshift(np.fft.fft2(slices, axes=(0, 1)), axes=(0, 1))
    start = [(have - keep) // 2 for have, keep in zip(slices.shape, size, strict=False)]
    kspace = kspace[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    for axis in (0, 1):
        taper = 1 - window * (1 - np.hanning(size[axis] + 1)[:-1])
        kspace = kspace * np.expand_dims(taper, [a for a in range(3) if a != axis])
    # The fine grid's voxel centres start half a coarse voxel earlier: shift by (reduction - 1) / 2 fine voxels.
    for axis in (0, 1):
        frequency = np.arange(size[axis]) - size[axis] // 2
        phase = np.exp(2j * np.pi * frequency * (IN_PLANE_REDUCTION - 1) / 2 / slices.shape[axis])
        kspace = kspace * np.expand_dims(phase, [a for a in range(3) if a != axis])
    image = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(0, 1)), axes=(0, 1)) / IN_PLANE_REDUCTION**2
    return np.asarray(image, dtype=np.complex64)
