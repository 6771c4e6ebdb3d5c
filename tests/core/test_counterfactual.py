import dataclasses

import numpy as np
import pytest
import torch

from cfmri_core.errors import AcquisitionError, Cancelled, RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import PRESETS as DIRECT_EDITORS
from cfmri_core.models.direct_editor import DirectEditor, MapNetwork
from cfmri_core.models.editor import PRESETS as EDITORS
from cfmri_core.models.editor import Editor
from cfmri_core.models.unet import ConditionalUNet
from cfmri_core.pipeline import counterfactual
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import METHODS, EditRequest, default_method, load_editor
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def editor():
    """A small untrained editor whose output depends on its condition."""
    torch.manual_seed(0)
    spec = ConditionSpec.from_parameters(list(PRESETS.values()))
    config = dataclasses.replace(EDITORS["tiny"], image_size=32, channels=(32, 32, 32))
    return woken(Editor(ConditionalUNet(config, spec.width), spec, config))


@pytest.fixture(scope="module")
def direct_editor(editor):
    size = dataclasses.replace(DIRECT_EDITORS["tiny"], image_size=32, channels=(32, 32), attention=(False, False))
    return woken(DirectEditor(MapNetwork(size, editor.spec), editor.spec, size))


def woken(editor):
    for parameter in editor.network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    editor.network.eval().requires_grad_(False)
    return editor


@pytest.fixture
def editors(editor, direct_editor):
    return {"editor": editor, "direct_editor": direct_editor}


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    voxels = rng.gamma(2.0, 200.0, (40, 36, 5)).astype(np.float32)
    return Volume(voxels, np.array([[-1.5, 0, 0, 30], [0, -1.5, 0, 20], [0, 0, 3, -7], [0, 0, 0, 1.0]]))


def request(**changes):
    return EditRequest(**{"changes": SIEMENS.known(), "method": "inversion", "steps": 3, **changes})


def directly(**changes):
    return EditRequest(**{"changes": SIEMENS.known(), "method": "fast", **changes})


def test_the_result_lies_on_the_same_grid_in_the_same_units(editor, volume):
    result = edit_volume(volume, GE, request(), editor)
    assert result.volume.has_same_grid(volume)
    assert result.requested == SIEMENS
    assert result.volume.voxels.min() >= 0
    assert not np.array_equal(result.volume.voxels, volume.voxels)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_an_edit_to_the_same_parameters_returns_the_source(editor, volume, guidance_scale):
    result = edit_volume(volume, GE, request(changes=GE.known(), guidance_scale=guidance_scale), editor)
    assert np.abs(result.volume.voxels - volume.voxels).max() <= 1e-3 * np.ptp(volume.voxels)


def test_the_same_seed_gives_the_same_volume_and_another_seed_another(editor, volume):
    one, again, other = (edit_volume(volume, GE, request(seed=s), editor).volume.voxels for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_slab_is_the_same_as_in_the_whole_volume(editors, volume, method):
    """A preview of one slice shows what the whole volume will show."""
    editor, steps = editors[METHODS[method].model], None if method == "fast" else 3
    whole = edit_volume(volume, GE, request(method=method, steps=steps), editor).volume
    part = edit_volume(volume, GE, request(method=method, steps=steps, slices=(2, 4)), editor).volume
    assert part.affine[:3, 3] == pytest.approx(volume.affine[:3, 3] + 2 * volume.affine[:3, 2])
    assert np.abs(part.voxels - whole.voxels[:, :, 2:4]).max() < 2e-2 * np.ptp(volume.voxels)


@pytest.mark.parametrize("method", list(METHODS))
def test_slices_without_anything_in_them_are_edited_too(editors, volume, method):
    """Scanners and tools fill the ends of a volume with zeros."""
    editor, steps = editors[METHODS[method].model], None if method == "fast" else 3
    voxels = volume.voxels.copy()
    voxels[:, :, 0] = 0
    asked = request(method=method, steps=steps, slices=(0, 1))
    result = edit_volume(volume.with_voxels(voxels), GE, asked, editor)
    assert np.isfinite(result.volume.voxels).all()
    assert np.isfinite(list(result.evidence["quality"].values())).all()


@pytest.fixture(scope="module")
def long_volume():
    """14 slices, from hardly any noise at one end to much of it at the other, on a finer matrix than the network's."""
    rng = np.random.default_rng(2)
    signal = np.zeros((80, 72, 14))
    signal[10:70, 8:64] = 400
    signal[20:40, 20:50] = 700
    noisy = np.abs(signal + np.linspace(1, 60, 14) * rng.standard_normal(signal.shape))
    return Volume(noisy.astype(np.float32), np.diag([-0.75, -0.75, 3.0, 1.0]))


@pytest.mark.parametrize("noise", METHODS["fast"].source_noise)
@pytest.mark.parametrize("at_once", [32, 8])
def test_a_slab_has_the_noise_that_it_has_in_the_whole(direct_editor, long_volume, monkeypatch, noise, at_once):
    monkeypatch.setattr(counterfactual, "SLICES_AT_ONCE", at_once)
    monkeypatch.setattr(counterfactual, "SLICES_MEASURED", 4)
    whole = edit_volume(long_volume, GE, directly(source_noise=noise, seed=3), direct_editor).volume.voxels
    for first, last in ((0, 1), (6, 8), (13, 14)):
        part = edit_volume(long_volume, GE, directly(source_noise=noise, seed=3, slices=(first, last)), direct_editor)
        difference = np.abs(part.volume.voxels - whole[:, :, first:last]).max()
        assert difference < 1e-4 * np.ptp(long_volume.voxels)


def test_progress_counts_the_measurement_of_the_noise(direct_editor, long_volume):
    seen = []
    edit_volume(
        long_volume,
        GE,
        directly(slices=(3, 4)),
        direct_editor,
        progress=lambda step, total, _: seen.append(step / total),
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_evidence_tells_how_it_came_about(editor, volume):
    evidence = edit_volume(volume, GE, request(), editor).evidence
    assert evidence["synthetic"] is True
    assert evidence["changes"]["echo_time_ms"] == [GE.echo_time_ms, SIEMENS.echo_time_ms]
    assert evidence["network_evaluations_per_slice"] == 9
    assert evidence["warnings"] == []


def test_another_model_does_not_keep_the_old_manufacturer(editor, volume):
    requested = edit_volume(volume, GE, request(changes={"manufacturer_model": "Avanto"}), editor).requested
    assert requested.manufacturer is None
    assert requested.field_strength_t == GE.field_strength_t


def test_maps_change_the_image_and_an_edit_to_the_same_parameters_does_not(direct_editor, volume):
    changed = edit_volume(volume, GE, directly(), direct_editor)
    assert changed.evidence["network_evaluations_per_slice"] == 2
    assert not np.array_equal(changed.volume.voxels, volume.voxels)
    same = edit_volume(volume, GE, directly(changes=GE.known()), direct_editor)
    assert same.evidence["network_evaluations_per_slice"] == 0
    assert np.array_equal(same.volume.voxels, volume.voxels)


#: How a scan may have been acquired beyond the trained ranges, and further beyond them.
BEYOND = [
    ({"echo_time_ms": 4.0}, {"echo_time_ms": 4.6}),
    ({"flip_angle_deg": 25.0}, {"flip_angle_deg": 30.0}),
    ({"field_strength_t": 7.0}, {"field_strength_t": 0.55}),
    ({"scan_options": "OTHER"}, {"scan_options": r"OTHER\FS"}),
]


@pytest.mark.parametrize(("stated", "changes"), BEYOND)
def test_maps_are_shown_under_protocols_beyond_the_trained_ranges_too(direct_editor, volume, stated, changes):
    factual = GE.replaced(stated)
    result = edit_volume(volume, factual, directly(changes=changes), direct_editor)
    assert result.evidence["network_evaluations_per_slice"] == 2
    assert not np.array_equal(result.volume.voxels, volume.voxels)
    assert not any("no effect" in warning for warning in result.evidence["warnings"])
    assert any("lies outside the training support" in warning for warning in result.evidence["warnings"])


@pytest.mark.parametrize(("stated", "changes"), BEYOND)
def test_a_change_that_the_network_cannot_see_is_said_to_have_no_effect(editor, volume, stated, changes):
    factual = GE.replaced(stated)
    result = edit_volume(volume, factual, request(changes=changes), editor)
    assert np.array_equal(result.volume.voxels, volume.voxels)
    assert next(w for w in result.evidence["warnings"] if "no effect" in w).startswith(next(iter(changes)))
    beside_another = edit_volume(volume, factual, request(changes={**changes, "repetition_time_ms": 4.0}), editor)
    said = [warning for warning in beside_another.evidence["warnings"] if "no effect" in warning]
    assert [warning.split(":")[0] for warning in said] == list(changes)


@pytest.mark.parametrize("shape", [(40, 36, 5), (97, 61, 3), (150, 150, 2)])
@pytest.mark.parametrize("method", ["fast", "inversion"])
def test_an_edit_to_the_same_parameters_is_the_source_bit_by_bit(editors, volume, shape, method):
    scan = Volume(np.random.default_rng(1).gamma(2.0, 200.0, shape).astype(np.float32), volume.affine)
    editor, steps = editors[METHODS[method].model], None if method == "fast" else 3
    for noise in ("keep", None):
        asked = request(changes=GE.known(), method=method, steps=steps, source_noise=noise)
        assert np.array_equal(edit_volume(scan, GE, asked, editor).volume.voxels, scan.voxels)


def test_removing_the_noise_is_another_result_and_is_said(direct_editor, volume):
    kept, removed = (edit_volume(volume, GE, directly(source_noise=n), direct_editor) for n in ("keep", "remove"))
    assert not np.array_equal(kept.volume.voxels, removed.volume.voxels)
    assert removed.evidence["source_noise"] == "remove"


def test_fast_brings_noise_to_the_requested_level_unless_told_otherwise_and_inversion_keeps_it(direct_editor, volume):
    untold, scaled = (edit_volume(volume, GE, directly(**n), direct_editor) for n in ({}, {"source_noise": "scale"}))
    assert np.array_equal(untold.volume.voxels, scaled.volume.voxels)
    assert untold.evidence["source_noise"] == "scale"
    assert request().noise_used == "keep"


def test_a_method_refuses_the_model_of_another(editor, direct_editor, volume):
    for refused, wrong in ((request(), direct_editor), (directly(), editor)):
        with pytest.raises(RequestError, match="needs a model of kind"):
            edit_volume(volume, GE, refused, wrong)


def test_a_method_that_does_not_exist_has_no_model():
    with pytest.raises(RequestError, match="magic"):
        load_editor("magic")


def test_paper_method_moves_the_image(editor, volume):
    result = edit_volume(volume, GE, request(method="paper", steps=2), editor)
    assert np.isfinite(result.volume.voxels).all()


def test_progress_runs_to_the_end_and_cancels(editor, volume):
    seen = []
    edit_volume(volume, GE, request(), editor, progress=lambda *state: seen.append(state[:2]))
    assert seen[-1] == (3, 3)

    def cancel(step, total, message):
        raise Cancelled("The user cancelled.")

    with pytest.raises(Cancelled):
        edit_volume(volume, GE, request(), editor, progress=cancel)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "magic"}, "magic"),
        ({"steps": 0}, "steps"),
        ({"steps": 5000}, "steps"),
        ({"guidance_scale": 99}, "99"),
        ({"method": "fast"}, "fast has no steps"),
        ({"method": "fast", "steps": None, "guidance_scale": 1.0}, "fast has no guidance_scale"),
        ({"source_noise": "remove"}, "cannot remove noise"),
        ({"method": "fast", "steps": None, "source_noise": "renew", "seed": -1}, "seed is -1"),
        ({"method": "fast", "source_noise": "double"}, "double"),
    ],
)
def test_bad_settings_are_refused(changes, named):
    with pytest.raises(RequestError, match=named):
        request(**changes)


def test_a_parameter_out_of_range_is_refused(editor, volume):
    with pytest.raises(AcquisitionError, match="echo_time_ms"):
        edit_volume(volume, GE, request(changes={"echo_time_ms": -3.0}), editor)


def test_slices_that_do_not_exist_are_refused(editor, volume):
    with pytest.raises(RequestError, match="0:5"):
        edit_volume(volume, GE, request(slices=(4, 9)), editor)


def test_the_default_is_the_method_that_there_is_a_model_for(editor, tmp_path):
    assert default_method() == "fast"
    editor.save(tmp_path / "editor", "Untrained.")
    assert default_method(tmp_path) == default_method(tmp_path / "editor") == "inversion"


def test_noise_is_scaled_to_that_of_the_requested_protocol(direct_editor, volume):
    thin = GE.replaced({"slice_thickness_mm": GE.slice_thickness_mm / 2})
    none, kept, scaled = (
        edit_volume(volume, GE, directly(changes=thin.known(), source_noise=noise), direct_editor).volume.voxels
        for noise in ("remove", "keep", "scale")
    )
    inside = np.minimum(np.minimum(none, kept), scaled) > 0
    ratio = (scaled - none)[inside] @ (kept - none)[inside] / np.sum((kept - none)[inside] ** 2)
    assert ratio == pytest.approx(2.0, rel=0.05)


def test_noise_is_renewed_at_the_level_of_the_requested_protocol(direct_editor, volume):
    def made(source_noise, seed=0, **more):
        request = directly(source_noise=source_noise, seed=seed, **more)
        return edit_volume(volume, GE, request, direct_editor).volume.voxels

    none, one, again, other = made("remove"), made("renew"), made("renew"), made("renew", seed=1)
    assert np.array_equal(one, again)
    first, second = (one - none).ravel(), (other - none).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert np.std(first) == pytest.approx(np.std(second), rel=0.1)
    to_the_same = made("renew", changes=GE.known())
    assert not np.array_equal(to_the_same, volume.voxels)


@pytest.mark.parametrize("method", ["fast", "inversion"])
def test_a_volume_edited_in_parts_is_the_same_as_at_once(editors, volume, method, monkeypatch):
    editor, steps = editors[METHODS[method].model], None if method == "fast" else 3
    whole = edit_volume(volume, GE, request(method=method, steps=steps), editor)
    monkeypatch.setattr(counterfactual, "SLICES_AT_ONCE", 2)
    seen = []
    parts = edit_volume(
        volume, GE, request(method=method, steps=steps), editor, progress=lambda *state: seen.append(state[:2])
    )
    assert parts.volume.voxels == pytest.approx(whole.volume.voxels, abs=1e-3 * np.ptp(volume.voxels))
    assert parts.evidence["quality"] == pytest.approx(whole.evidence["quality"], abs=1e-4)
    assert seen[-1][0] == seen[-1][1]
