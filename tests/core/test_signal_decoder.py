import math

import numpy as np
import pytest
import torch

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.signal_decoder import CHANNELS, Protocols, PseudoMaps, SignalDecoder, suppresses_fat
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.signal import fat_phasor, spoiled_gradient_echo
from cfmri_core.simulation.tissues import FAT_T1_MS, FAT_T2_STAR_MS, WATER_POOLS, Tissue

SIZE = 32
SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
PLAIN = AcquisitionParameters(
    field_strength_t=1.5, flip_angle_deg=12, slice_thickness_mm=2.0, echo_time_ms=2.3, repetition_time_ms=5,
    scan_options="PFP", manufacturer_model="Avanto",
)  # fmt: skip


@pytest.fixture
def decoder():
    return SignalDecoder(len(SPEC.categories["manufacturer_model"]), len(SPEC.categories["scan_options"]), SIZE)


def uniform(**values):
    zeros = dict.fromkeys(PseudoMaps.__dataclass_fields__, 0.0) | {"receive": 1.0} | values
    return PseudoMaps(**{name: torch.full((1, SIZE, SIZE), float(value)) for name, value in zeros.items()})


def shown(decoder, maps, parameters):
    with torch.no_grad():
        return decoder(maps, Protocols.of([parameters], SPEC))[0].numpy()


@pytest.mark.parametrize("field", [1.5, 3.0])
@pytest.mark.parametrize(("water", "fat"), [(1.0, 0.0), (0.0, 1.0), (0.4, 0.6)])
def test_it_shows_what_the_simulators_equation_says(decoder, field, water, fat):
    """Without fat suppression, coil or edges nothing but the equation is left."""
    parameters = PLAIN.replaced({"field_strength_t": field})
    pool, between = WATER_POOLS[Tissue.FIBROGLANDULAR], int(field > 1.5)
    timing = {"echo_time_ms": 2.3, "repetition_time_ms": 5.0}
    flip = math.radians(12)
    of_water = spoiled_gradient_echo(pool.t1_at(field), pool.t2_star_at(field), flip, **timing)
    of_fat = spoiled_gradient_echo(FAT_T1_MS[between], FAT_T2_STAR_MS[between], flip, **timing)
    expected = abs(water * of_water + fat * of_fat * fat_phasor(2.3, field))
    image = shown(decoder, uniform(water=water, fat=fat), parameters)
    np.testing.assert_allclose(image, expected, rtol=1e-3, atol=1e-4)


def test_suppression_takes_fat_away_and_leaves_water(decoder):
    suppressed = PLAIN.replaced({"scan_options": r"PFP\FS"})
    fat, water = uniform(fat=20.0), uniform(water=20.0)
    assert shown(decoder, fat, suppressed).max() < 0.3 * shown(decoder, fat, PLAIN).min()
    np.testing.assert_allclose(shown(decoder, water, suppressed), shown(decoder, water, PLAIN), rtol=1e-5)


def test_short_t2_star_is_due_to_susceptibility_and_halves_when_the_field_doubles(decoder):
    """As in the lung, where little of the slower decay of water itself is left."""
    short = uniform(water=1.0, log_t2_star=math.log(1.0 / WATER_POOLS[Tissue.FIBROGLANDULAR].t2_star_ms[0]))
    early, late = (PLAIN.replaced({"echo_time_ms": echo}) for echo in (1.0, 2.0))

    def decay(field):
        images = [shown(decoder, short, one.replaced({"field_strength_t": field})).mean() for one in (early, late)]
        return images[1] / images[0]

    assert decay(1.5) == pytest.approx(math.exp(-1.0), rel=1e-3)
    assert decay(3.0) == pytest.approx(math.exp(-2.0), rel=0.05)


def test_a_tissue_whose_t1_grows_faster_gets_darker_at_3_t(decoder):
    plain, rising = uniform(water=1.0), uniform(water=1.0, t1_rise=0.16)
    at_3_t = PLAIN.replaced({"field_strength_t": 3.0})
    np.testing.assert_allclose(shown(decoder, rising, PLAIN), shown(decoder, plain, PLAIN), rtol=1e-6)
    assert shown(decoder, rising, at_3_t).mean() < 0.95 * shown(decoder, plain, at_3_t).mean()


def one_bright_slice(of=7):
    values = {name: torch.zeros(of, 2, 2) for name in PseudoMaps.__dataclass_fields__}
    values["water"] = torch.zeros(of, 2, 2)
    values["water"][of // 2] = 1.0
    return PseudoMaps(**values)


def test_thick_slices_hold_more_of_their_neighbours_and_thin_ones_less():
    bright = one_bright_slice()
    thick = bright.with_thickness(1.0, 3.0, 2.34375).water[:, 0, 0]
    thicker = bright.with_thickness(1.0, 3.5, 2.34375).water[:, 0, 0]
    assert 0 < thick[2] < thicker[2]
    assert thick[2] == thick[4]
    assert thick.sum() == pytest.approx(1.0)
    broad = PseudoMaps(**{name: value + thick[:, None, None] for name, value in vars(one_bright_slice()).items()})
    assert broad.with_thickness(3.0, 1.0, 2.34375).water[3, 0, 0] > broad.water[3, 0, 0]


def test_neighbours_that_lie_far_off_count_less():
    near, far = (one_bright_slice().with_thickness(1.0, 3.0, distance).water[2, 0, 0] for distance in (2.0, 4.0))
    assert 0 < far < near


@pytest.mark.parametrize(("from_mm", "to_mm", "distance_mm"), [(2, 10, 2.3), (1, 3, 0.7), (5, 1, 1.0), (1, 50, 0.01)])
def test_no_thickness_asks_for_more_than_three_slices_can_show(from_mm, to_mm, distance_mm):
    shown = one_bright_slice().with_thickness(from_mm, to_mm, distance_mm).water[:, 0, 0]
    if to_mm > from_mm:
        assert shown[2:5].tolist() == pytest.approx([1 / 3] * 3)
    else:
        assert 1 < shown.max() < 2


def test_amounts_of_tissue_are_never_negative():
    assert one_bright_slice().with_thickness(3.0, 1.0, 1.0).water.min() == 0


def test_the_same_thickness_changes_nothing():
    bright = one_bright_slice()
    assert torch.equal(bright.with_thickness(2.0, 2.0, 2.34375).water, bright.water)


def test_coils_are_steadied_across_slices_and_tissue_is_not():
    values = {name: torch.zeros(5, 2, 2) for name in PseudoMaps.__dataclass_fields__}
    values["receive"], values["water"] = values["receive"].clone(), values["water"].clone()
    values["receive"][2], values["water"][2] = 1.0, 1.0
    steady = PseudoMaps(**values).steadied(torch.tensor([0.25, 0.5, 0.25]))
    assert steady.receive[:, 0, 0].tolist() == [0, 0.25, 0.5, 0.25, 0]
    assert steady.water[:, 0, 0].tolist() == [0, 0, 1, 0, 0]


def test_maps_of_mirror_images_are_mirrored_before_they_are_averaged():
    values = {name: torch.tensor([[[1.0, 3.0]]]) for name in PseudoMaps.__dataclass_fields__}
    maps = PseudoMaps(**values)
    assert maps.mirrored().water.tolist() == [[[3.0, 1.0]]]
    assert maps.averaged(maps.mirrored()).shim.tolist() == [[[2.0, 2.0]]]


def test_an_unknown_scanner_is_the_mean_of_all(decoder):
    protocols = Protocols.of([AcquisitionParameters(manufacturer_model="Vida")], SPEC)
    assert protocols.models.sum() == pytest.approx(1.0)
    assert protocols.numbers["echo_time_ms"] == pytest.approx(sum(SPEC.ranges["echo_time_ms"]) / 2)


@pytest.mark.parametrize(
    ("options", "expected"), [(None, True), (r"PFP\FS", True), (r"PFP\SFS", True), ("PFP", False), ("FAST_GEMS", False)]
)
def test_fat_saturation_is_read_off_the_options(options, expected):
    assert suppresses_fat(options) is expected


def test_no_gradient_is_lost_in_air(decoder):
    channels = torch.zeros(1, CHANNELS, SIZE, SIZE, requires_grad=True)
    protocols = Protocols.of([PLAIN], SPEC)
    decoder(decoder.maps(channels, torch.zeros(1, SIZE, SIZE), protocols), protocols).sum().backward()
    assert torch.isfinite(channels.grad).all()
