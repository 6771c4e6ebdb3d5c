import numpy as np
import pytest
import torch

from cfmri_core.data.pairs import load_renderings
from cfmri_core.data.studies import list_studies
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import SLICES_SEEN, DirectEditor, with_neighbours
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import EditRequest, load_editor
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training import direct_editor as training
from cfmri_core.training.direct_editor import PairLoss, train_direct_editor

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    simulate_dataset(root, 3, 70, StudyPlan(slab_mm=8, paired={"same": "same", "any": "decorrelated*2"}))
    return root


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return train_direct_editor(data, tmp_path_factory.mktemp("trained"), iterations=2, batch_size=2)


def test_maps_show_slices_of_the_same_size():
    editor = DirectEditor.create("tiny", SPEC)
    parameters = list(PRESETS.values())[:2]
    maps = editor.maps(torch.rand(2, SLICES_SEEN, 128, 128), parameters)
    assert editor.images(maps, parameters[:1]).shape == (2, 1, 128, 128)


def test_an_edit_to_the_same_parameters_changes_nothing(data):
    editor = DirectEditor.create("tiny", SPEC)
    scan = read_scan(list_studies(data)[0].scan_path)
    edited = edit_volume(scan.volume, scan.acquisition.parameters, EditRequest(method="fast"), editor)
    assert np.array_equal(edited.volume.voxels, scan.volume.voxels)


def test_a_slab_is_edited_as_in_the_whole(data):
    editor = DirectEditor.create("tiny", SPEC)
    torch.nn.init.normal_(editor.network.unet.unet.out[-1].conv.weight, std=0.05)
    scan = read_scan(list_studies(data)[0].scan_path)
    requests = [EditRequest(changes={"echo_time_ms": 1.3}, method="fast", slices=one) for one in (None, (2, 3))]
    whole, slab = (edit_volume(scan.volume, scan.acquisition.parameters, one, editor) for one in requests)
    np.testing.assert_allclose(slab.volume.voxels[..., 0], whole.volume.voxels[..., 2], rtol=1e-3, atol=1e-2)


def test_slices_stand_between_their_neighbours_and_the_ends_repeat():
    stack = with_neighbours(torch.arange(4.0)[:, None, None, None])
    assert stack[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_what_was_trained_can_be_used_to_edit(data, trained):
    editor = load_editor("fast", trained)
    scan = read_scan(list_studies(data)[0].scan_path)
    request = EditRequest(changes={"echo_time_ms": 1.3, "flip_angle_deg": 12}, method="fast")
    evidence = edit_volume(scan.volume, scan.acquisition.parameters, request, editor).evidence
    assert evidence["model"] == {"kind": "direct_editor", "sha256": editor.sha256, "preset": "tiny"}


def test_training_ends_with_the_sharpness_that_the_maps_lose(trained):
    lost = DirectEditor.load(trained).network.decoder.lost_sharpness
    assert torch.isfinite(lost).all()
    assert lost.max() > 0


def test_it_learns_from_its_own_edits_on_the_scale_of_real_scans(data, monkeypatch):
    monkeypatch.setattr(training, "EDITED_SHARE", 1.0)
    subjects = load_renderings(list_studies(data), 128)
    editor = DirectEditor.create("tiny", SPEC)
    loss = PairLoss(editor, subjects, batch_size=4)
    draws = [draw for seed in range(8) if (draw := loss._draw(torch.Generator().manual_seed(seed))).is_edited]
    assert len(draws) >= 4
    assert loss._edited(editor.network, draws).shape == (len(draws), SLICES_SEEN, 128, 128)
    for draw in draws:
        subject, images = subjects[draw.subject], loss._window(draw, SLICES_SEEN)
        scanner_units = images * subject.span[draw.scan] + subject.low[draw.scan]
        again = loss._rescaled(draw, images) * subject.span[draw.source] + subject.low[draw.source]
        torch.testing.assert_close(again, scanner_units, rtol=1e-4, atol=1e-2)
    assert torch.isfinite(loss(editor.network, torch.Generator().manual_seed(1)))


def test_training_is_repeatable(data, trained, tmp_path):
    again = train_direct_editor(data, tmp_path, iterations=2, batch_size=2)
    assert DirectEditor.load(again).sha256 == DirectEditor.load(trained).sha256


def test_training_goes_on_from_a_model_with_its_encoding(data, trained, tmp_path):
    start = DirectEditor.load(trained)
    second = train_direct_editor(data, tmp_path / "second", iterations=1, batch_size=2, start_from=trained)
    further = DirectEditor.load(second)
    assert further.spec == start.spec
    before, after = (dict(editor.network.named_parameters()) for editor in (start, further))
    steps = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(steps) < 0.1
    assert f"--start-from {trained}" in (second / "README.md").read_text()


def test_a_slab_changes_its_thickness_with_the_neighbours_outside_it(data):
    """What one slice becomes does not depend on which others were asked for."""
    editor = DirectEditor.create("tiny", SPEC)
    scan = read_scan(list_studies(data)[0].scan_path)
    edits = [
        edit_volume(
            scan.volume,
            scan.acquisition.parameters,
            EditRequest(changes={"slice_thickness_mm": 2.4}, method="fast", slices=slices),
            editor,
        ).volume.voxels
        for slices in (None, (1, 2))
    ]
    np.testing.assert_allclose(edits[0][:, :, 1:2], edits[1], atol=1e-2)
    source = scan.volume.voxels
    assert np.abs(edits[0] - source).max() > 0.01 * np.ptp(source)


def test_scans_without_pairs_are_refused(tmp_path):
    simulate_dataset(tmp_path / "single", 2, 75, StudyPlan(slab_mm=8))
    with pytest.raises(RequestError, match="paired"):
        train_direct_editor(tmp_path / "single", tmp_path / "out", iterations=1)


def test_an_unknown_preset_is_refused(data, tmp_path):
    with pytest.raises(RequestError, match="huge"):
        DirectEditor.create("huge", SPEC)
    with pytest.raises(RequestError, match="huge"):
        train_direct_editor(data, tmp_path, preset="huge")


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(CheckpointError, match="kind"):
        DirectEditor.load(load_folder_of_the_shipped_editor())


def load_folder_of_the_shipped_editor():
    from cfmri_core.models.model_folder import locate_model

    return locate_model("editor")
