import dataclasses
import json

import numpy as np
import pytest

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.pipeline.uncertainty import (
    PairedEdit,
    UncertaintyCalibration,
    coverage,
    fit_uncertainty,
    read_uncertainty,
    replayed,
    write_uncertainty,
)

SHAPE = (24, 20, 4)


def paired_edit(seed, *, spread=True, gain=1.0):
    """An edit whose error grows with the deviation of the replays, or else with the change made."""
    rng = np.random.default_rng(seed)
    source = rng.random(SHAPE)
    change = rng.random(SHAPE) * 0.4
    deviation = rng.gamma(2.0, 0.02, SHAPE) if spread else np.zeros(SHAPE)
    sigma = 0.01 + (2.5 * deviation if spread else 0.3 * change)
    truth = source + change
    result = truth + gain * sigma * rng.standard_normal(SHAPE)
    return PairedEdit(source, result, deviation, truth, np.ones(SHAPE, dtype=bool))


def covered(calibration, edits):
    widths = [calibration.half_widths(edit.source, edit.result, edit.deviation) for edit in edits]
    return [coverage(width, edit.result, edit.truth, edit.mask) for width, edit in zip(widths, edits, strict=True)]


@pytest.mark.parametrize("spread", [True, False])
def test_intervals_cover_nine_tenths_of_new_patients_voxels(spread):
    calibration = fit_uncertainty([paired_edit(seed, spread=spread) for seed in range(12)], replays=4)
    shares = covered(calibration, [paired_edit(seed, spread=spread) for seed in range(50, 62)])
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_intervals_are_wide_where_replays_differ():
    calibration = fit_uncertainty([paired_edit(seed) for seed in range(8)], replays=4)
    assert calibration.weights["deviation"] > 1
    edit = paired_edit(90)
    widths = calibration.half_widths(edit.source, edit.result, edit.deviation)
    assert np.corrcoef(widths.ravel(), edit.deviation.ravel())[0, 1] > 0.9


def test_a_method_without_replays_is_carried_by_what_the_edit_changed():
    calibration = fit_uncertainty([paired_edit(seed, spread=False) for seed in range(8)], replays=1)
    assert calibration.weights["deviation"] == 0
    assert calibration.weights["change"] > 0.1


def test_a_subject_with_many_voxels_weighs_no_more_than_another():
    large = paired_edit(3, gain=3.0)
    edits = [paired_edit(seed) for seed in range(7)] + [large]
    small = [dataclasses.replace(edit, mask=np.arange(np.prod(SHAPE)).reshape(SHAPE) % 20 == 0) for edit in edits[:7]]
    even = fit_uncertainty([*small, large], replays=4)
    assert np.median(covered(even, edits[:7])) > 0.85
    assert even.factor < 2.0 * fit_uncertainty(edits[:7], replays=4).factor


def test_replays_are_summed_up_as_numpy_does():
    runs = {seed: np.random.default_rng(seed).random(SHAPE) for seed in range(4)}
    found = replayed(runs.__getitem__, range(4))
    stacked = np.stack(list(runs.values()))
    assert found.mean == pytest.approx(stacked.mean(axis=0))
    assert found.deviation == pytest.approx(stacked.std(axis=0, ddof=1))
    assert found.count == 4


def test_one_replay_has_no_spread_and_none_is_refused():
    assert not replayed(lambda seed: np.ones(SHAPE), [7]).deviation.any()
    with pytest.raises(RequestError, match="no seed"):
        replayed(lambda seed: np.ones(SHAPE), [])


def test_half_widths_are_never_zero():
    calibration = UncertaintyCalibration({"constant": 0, "deviation": 1, "gradient": 0, "change": 0}, 2.0, 4, 9)
    nothing = np.zeros(SHAPE)
    assert calibration.half_widths(nothing, nothing, nothing).min() == pytest.approx(2 / 256)


def test_no_paired_truth_is_refused_and_one_patient_is_enough():
    with pytest.raises(RequestError, match="--paired"):
        fit_uncertainty([], replays=4)
    assert np.mean(covered(fit_uncertainty([paired_edit(0)], 4), [paired_edit(0)])) == pytest.approx(0.9, abs=0.01)


def test_calibrations_survive_the_model_folder(tmp_path):
    calibrations = {"inversion": fit_uncertainty([paired_edit(0), paired_edit(1)], replays=4)}
    path = write_uncertainty(tmp_path, calibrations, "abc")
    assert read_uncertainty(tmp_path, "abc") == calibrations
    assert read_uncertainty(tmp_path / "none", "abc") == {}
    content = json.loads(path.read_text())
    del content["methods"]["inversion"]["weights"]["change"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="other terms"):
        read_uncertainty(tmp_path, "abc")


@pytest.mark.parametrize(
    ("where", "value"),
    [("factor", None), ("factor", "2"), ("weights", 3), ("weights", {"change": "nan"}), ("level", -1)],
)
def test_calibrations_that_hold_no_numbers_are_refused(tmp_path, where, value):
    path = write_uncertainty(tmp_path, {"inversion": fit_uncertainty([paired_edit(0)], replays=4)}, "abc")
    content = json.loads(path.read_text())
    content["methods"]["inversion"][where] = value
    for methods in (content["methods"], [], {"inversion": None}):
        path.write_text(json.dumps({**content, "methods": methods}))
        with pytest.raises(CheckpointError, match=r"uncertainty\.json"):
            read_uncertainty(tmp_path, "abc")
