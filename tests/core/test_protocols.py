import numpy as np

from cfmri_core.simulation.protocols import CELLS, PRESETS, draw_protocol


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
