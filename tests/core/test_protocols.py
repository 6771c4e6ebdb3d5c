import numpy as np
import pytest

from cfmri_core.errors import RequestError
from cfmri_core.simulation.protocols import (
    CELLS,
    LEAST_SINGLE_CHANGE,
    PRESETS,
    RANGES,
    draw_decorrelated,
    draw_protocol,
    draw_source,
    draw_target,
    share_change,
    target_list,
)


def test_drawn_protocols_stay_in_the_published_quantiles():
    rng = np.random.default_rng(0)
    for _ in range(300):
        drawn = draw_protocol(rng)
        assert any(
            (cell.manufacturer_model, cell.field_strength_t, cell.scan_options)
            == (drawn.manufacturer_model, drawn.field_strength_t, drawn.scan_options)
            and cell.echo_time_ms[0] <= drawn.echo_time_ms <= cell.echo_time_ms[2]
            and cell.repetition_time_ms[0] <= drawn.repetition_time_ms <= cell.repetition_time_ms[2]
            and drawn.slice_thickness_mm in cell.slice_thickness_mm
            for cell in CELLS
        )


def test_cells_occur_as_often_as_in_the_table():
    rng = np.random.default_rng(1)
    share = np.mean([draw_protocol(rng).manufacturer == "SIEMENS" for _ in range(2000)])
    assert abs(share - 193 / 809) < 0.04


def test_echo_and_repetition_time_go_together():
    rng = np.random.default_rng(2)
    drawn = [draw_protocol(rng) for _ in range(1500)]
    correlation = np.corrcoef([p.echo_time_ms for p in drawn], [p.repetition_time_ms for p in drawn])[0, 1]
    assert abs(correlation - 0.883) < 0.08


def test_one_manufacturer_on_request():
    rng = np.random.default_rng(3)
    assert {draw_protocol(rng, "SIEMENS").manufacturer for _ in range(20)} == {"SIEMENS"}


def test_same_seed_same_protocol():
    assert draw_protocol(np.random.default_rng(4)) == draw_protocol(np.random.default_rng(4))


def test_presets_know_every_parameter():
    assert all(None not in preset.as_dict().values() for preset in PRESETS.values())


def test_decorrelated_draws_break_every_correlation_but_that_of_maker_and_model():
    rng = np.random.default_rng(5)
    drawn = [draw_decorrelated(rng) for _ in range(1500)]
    columns = [[getattr(p, name) for p in drawn] for name in RANGES]
    columns += [[p.manufacturer == "SIEMENS" for p in drawn], [p.field_strength_t for p in drawn]]
    columns += [[p.scan_options.endswith("SFS") for p in drawn]]
    correlation = np.corrcoef(np.array(columns, dtype=float)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 0.1
    for name, limits in RANGES.items():
        values = [getattr(p, name) for p in drawn]
        assert limits[0] <= min(values) < limits[0] + 0.02 * np.ptp(limits)
        assert limits[1] - 0.02 * np.ptp(limits) < max(values) <= limits[1]
    makers = {cell.manufacturer_model: cell.manufacturer for cell in CELLS}
    assert all(makers[p.manufacturer_model] == p.manufacturer for p in drawn)


@pytest.mark.parametrize("protocol", ["duke", "decorrelated"])
def test_sources_of_one_manufacturer_on_request(protocol):
    rng = np.random.default_rng(6)
    assert {draw_source(rng, protocol, "SIEMENS").manufacturer for _ in range(20)} == {"SIEMENS"}


@pytest.mark.parametrize(("protocol", "manufacturer"), [("other", None), ("duke", "NOBODY")])
def test_unknown_sources_are_refused(protocol, manufacturer):
    with pytest.raises(RequestError, match=r"'other'|'NOBODY'"):
        draw_source(np.random.default_rng(0), protocol, manufacturer)


@pytest.mark.parametrize("name", [*RANGES, "field_strength_t", "manufacturer_model", "scan_options"])
def test_a_single_target_changes_one_parameter_noticeably(name):
    rng = np.random.default_rng(7)
    for source in (*PRESETS.values(), *(draw_decorrelated(rng) for _ in range(20))):
        changed = source.differences(draw_target(rng, source, f"single:{name}"))
        assert set(changed) - {"manufacturer"} == {name}
        if name in RANGES:
            old, new = changed[name]
            low, high = RANGES[name]
            assert low <= new <= high
            assert abs(new - old) >= LEAST_SINGLE_CHANGE * (high - low) - 1e-3


def test_targets_by_name():
    rng, source = np.random.default_rng(8), PRESETS["ge-hdx-3t"]
    assert draw_target(rng, source, "same") == source
    assert draw_target(rng, source, "siemens-trio-3t") == PRESETS["siemens-trio-3t"]
    assert draw_target(rng, source, {"echo_time_ms": 1.4}) == source.replaced({"echo_time_ms": 1.4})
    assert draw_target(rng, source, "other-manufacturer").manufacturer == "SIEMENS"
    assert draw_target(rng, source, "duke") != draw_target(rng, source, "decorrelated")


def test_the_manufacturer_follows_its_model():
    rng, source = np.random.default_rng(8), PRESETS["ge-hdx-3t"]
    assert draw_target(rng, source, {"manufacturer_model": "Avanto"}).manufacturer == "SIEMENS"
    assert draw_target(rng, source, {"manufacturer_model": "Avanto", "manufacturer": "Other"}).manufacturer == "Other"
    assert draw_target(rng, source, {"manufacturer_model": "Ingenia"}).manufacturer is None


@pytest.mark.parametrize("old", [0.5, 5.0])
def test_a_single_target_lies_in_the_range_wherever_the_source_lies(old):
    rng, source = np.random.default_rng(9), PRESETS["ge-hdx-3t"].replaced({"echo_time_ms": old})
    low, high = RANGES["echo_time_ms"]
    drawn = [draw_target(rng, source, "single:echo_time_ms").echo_time_ms for _ in range(50)]
    assert low <= min(drawn) <= max(drawn) <= high


@pytest.mark.parametrize("target", ["nonsense", "single:", "single:manufacturer", "single:echo"])
def test_unknown_targets_are_refused(target):
    with pytest.raises(RequestError, match="'"):
        draw_target(np.random.default_rng(0), PRESETS["ge-hdx-3t"], target)


def test_repetitions_and_lists_are_numbered():
    assert target_list({"a": "same", "d": "duke*2", "m": ["duke", {"echo_time_ms": 2.0}]}) == {
        "a": "same",
        "d-1": "duke",
        "d-2": "duke",
        "m-1": "duke",
        "m-2": {"echo_time_ms": 2.0},
    }


@pytest.mark.parametrize("paired", [{"a": "duke*"}, {"a": "duke*0"}, {"a": "duke*2", "a-1": "same"}])
def test_wrong_repetitions_are_refused(paired):
    with pytest.raises(RequestError):
        target_list(paired)


def test_a_share_is_changed_and_not_the_protocol():
    source = draw_protocol(np.random.default_rng(1))
    assert draw_target(np.random.default_rng(2), source, "share:+0.2") == source
    assert share_change("share:+0.2") == 0.2
    assert share_change("same") == 0


@pytest.mark.parametrize("target", ["share:", "share:more", "share:-1", "share:nan"])
def test_impossible_shares_are_refused(target):
    with pytest.raises(RequestError, match="not a change of the share"):
        share_change(target)
