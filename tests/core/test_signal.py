import numpy as np
import pytest

from cfmri_core.simulation.signal import fat_phasor, spoiled_gradient_echo, water_fat_signal
from cfmri_core.simulation.tissues import FAT_PROTON_DENSITY, FAT_T1_MS, FAT_T2_STAR_MS, WATER_POOLS, Tissue


def test_ernst_angle_gives_the_most_signal():
    t1, repetition = 1000.0, 5.0
    angles = np.deg2rad(np.linspace(0.5, 40, 400)).astype(np.float32)
    signal = spoiled_gradient_echo(t1, 50.0, angles, echo_time_ms=1.0, repetition_time_ms=repetition)
    assert angles[signal.argmax()] == pytest.approx(np.arccos(np.exp(-repetition / t1)), abs=2e-3)


def test_a_long_repetition_time_reaches_the_sine_of_the_flip_angle():
    signal = spoiled_gradient_echo(100.0, 1e9, np.deg2rad(30.0), echo_time_ms=0.0, repetition_time_ms=1e5)
    assert float(signal) == pytest.approx(0.5, abs=1e-6)


def test_echo_time_decays_with_t2_star():
    short, long = (
        spoiled_gradient_echo(500.0, 20.0, 0.2, echo_time_ms=te, repetition_time_ms=5.0) for te in (2.0, 12.0)
    )
    assert float(long / short) == pytest.approx(np.exp(-10 / 20), rel=1e-5)


@pytest.mark.parametrize(
    ("echo_time_ms", "field_strength_t", "sign"), [(2.4, 1.5, -1), (2.4, 3.0, 1), (4.6, 1.5, 1), (1.15, 3.0, -1)]
)
def test_fat_is_opposed_or_in_phase_where_the_field_says(echo_time_ms, field_strength_t, sign):
    """About 2.3 and 4.5 ms at 1.5 T, 1.15 and 2.3 ms at 3 T: the same echo time acts otherwise by field."""
    assert np.sign(fat_phasor(echo_time_ms, field_strength_t).real) == sign


def test_fat_phasor_starts_at_one():
    """The published amplitudes are rounded and sum to 0.999."""
    assert fat_phasor(0.0, 3.0) == pytest.approx(1.0, abs=2e-3)


def test_opposed_phase_cancels_where_water_meets_fat():
    one = np.ones((1, 1, 1), np.float32)
    zero = np.zeros_like(one)
    timing = {"echo_time_ms": 2.3, "field_strength_t": 1.5, "off_resonance_ppm": zero}
    mixed = abs(water_fat_signal(one, one, **timing)).item()
    assert mixed < 0.3 < abs(water_fat_signal(one, zero, **timing)).item()


@pytest.mark.parametrize(("field_strength_t", "index"), [(1.5, 0), (3.0, 1)])
def test_unsuppressed_fat_outshines_gland_as_pure_pools(field_strength_t, index):
    timing = {"echo_time_ms": 2.4, "repetition_time_ms": 5.2}
    flip, pool = np.deg2rad(10.0), WATER_POOLS[Tissue.FIBROGLANDULAR]
    gland = spoiled_gradient_echo(pool.t1_at(field_strength_t), pool.t2_star_at(field_strength_t), flip, **timing)
    fat = spoiled_gradient_echo(FAT_T1_MS[index], FAT_T2_STAR_MS[index], flip, **timing)
    fat = fat * FAT_PROTON_DENSITY * abs(fat_phasor(2.4, field_strength_t))
    assert float(gland * pool.proton_density / fat) < 0.6
