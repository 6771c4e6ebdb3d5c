"""The signal of a spoiled gradient echo of water and fat: the physics, nothing invented."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfmri_core.simulation.tissues import FAT_PEAK_AMPLITUDES, FAT_PEAKS_PPM

#: Gyromagnetic ratio of the proton, MHz per tesla.
GYROMAGNETIC_RATIO_MHZ_PER_T = 42.577

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]


def spoiled_gradient_echo(
    t1_ms: FloatArray | float,
    t2_star_ms: FloatArray | float,
    flip_angle_rad: FloatArray | float,
    *,
    echo_time_ms: float,
    repetition_time_ms: float,
) -> FloatArray:
    """Steady-state signal of one pool per unit proton density.

    ``sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``. Arrays broadcast;
    the result lies in [0, 1].

    Source: Ernst & Anderson 1966; Haase et al. 1986 (FLASH).
    """
    e1 = np.exp(-repetition_time_ms / np.asarray(t1_ms, dtype=np.float32))
    decay = np.exp(-echo_time_ms / np.asarray(t2_star_ms, dtype=np.float32))
    steady_state = np.sin(flip_angle_rad) * (1 - e1) / (1 - np.cos(flip_angle_rad) * e1) * decay
    return np.asarray(steady_state, dtype=np.float32)


def fat_phasor(echo_time_ms: float, field_strength_t: float) -> complex:
    """Sum of the fat peaks relative to on-resonant water at the echo time; magnitude at most 1.

    Source: Hamilton et al. 2011, NMR Biomed 24:784 (peaks and amplitudes).
    """
    offset_hz = np.array(FAT_PEAKS_PPM) * GYROMAGNETIC_RATIO_MHZ_PER_T * field_strength_t
    phase = 2 * np.pi * offset_hz * echo_time_ms * 1e-3
    return complex(np.sum(np.array(FAT_PEAK_AMPLITUDES) * np.exp(1j * phase)))


def water_fat_signal(
    water: FloatArray, fat: FloatArray, *, echo_time_ms: float, field_strength_t: float, off_resonance_ppm: FloatArray
) -> ComplexArray:
    """Complex voxel signal of both pools.

    The sum is complex on purpose: whether a fatty voxel loses or gains signal at a given echo time
    depends on the field strength, and partial-volume borders carry that (India ink).

    Args:
        water: Water signal (fraction, density and steady state included), shape ``(i, j, k)``.
        fat: Fat signal after suppression, same shape.
        echo_time_ms: Echo time.
        field_strength_t: Static field.
        off_resonance_ppm: Local field offset in ppm, same shape.

    Returns:
        complex64, same shape.
    """
    local = 2 * np.pi * off_resonance_ppm * GYROMAGNETIC_RATIO_MHZ_PER_T * field_strength_t * echo_time_ms * 1e-3
    signal = (water + fat * fat_phasor(echo_time_ms, field_strength_t)) * np.exp(1j * local)
    return np.asarray(signal, dtype=np.complex64)
