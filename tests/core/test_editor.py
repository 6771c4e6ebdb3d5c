import json

import pytest
import torch
from torch import nn

from cfmri_core.diffusion.sampling import edit_friendly, shared_noise
from cfmri_core.diffusion.schedule import index_grid
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import PRESETS, Editor, EditorConfig

SPEC = ConditionSpec(
    {
        "field_strength_t": (1.5, 3.0),
        "manufacturer_model": ("Avanto", "Optima MR450w", "SIGNA HDx", "Signa HDxt", "TrioTim"),
        "scan_options": ("FS", "PFP"),
    },
    {
        "flip_angle_deg": (7, 12),
        "slice_thickness_mm": (1, 2.2),
        "echo_time_ms": (1.2, 2.7),
        "repetition_time_ms": (3.7, 6.6),
    },
)


def woken(editor):
    """Give the zero-initialised last layers of a new network values, so that the output means something."""
    torch.manual_seed(1)
    for parameter in editor.network.parameters():
        if not parameter.any() and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    editor.network.eval().requires_grad_(False)
    return editor


@pytest.fixture(scope="module")
def editor():
    torch.manual_seed(0)
    return woken(Editor.create("tiny", SPEC))


def noisy(batch=2):
    return torch.randn(batch, 1, 96, 96, generator=torch.Generator().manual_seed(2))


def conditions(batch=2):
    return torch.randn(batch, SPEC.width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("preset", "lowest", "highest"), [("paper", 36.4e6, 36.6e6), ("tiny", 2.3e6, 3.0e6)])
def test_number_of_parameters(preset, lowest, highest):
    with torch.device("meta"):
        network = Editor.create(preset, SPEC).network
    assert lowest <= sum(parameter.numel() for parameter in network.parameters()) <= highest


def test_paper_preset_has_the_published_layout():
    """Names of some tensors that the published weights have, after MONAI's renaming."""
    with torch.device("meta"):
        unet = Editor.create("paper", SPEC).network.unet
    state = unet.state_dict()
    assert state["class_embedding.0.weight"].shape == (256, SPEC.width)
    assert "class_embedding.0.bias" not in state
    assert sum(name.endswith("attn1.out_proj.weight") for name in state) == 11
    assert state["conv_in.conv.weight"].shape == (64, 1, 3, 3)


def test_untrained_editor_predicts_zero():
    assert not Editor.create("tiny", SPEC).raw(noisy(), 500, conditions()).any()


def test_output_is_float32_of_the_same_shape(editor):
    output = editor.raw(noisy(), 500, conditions())
    assert output.shape == (2, 1, 96, 96)
    assert output.dtype == torch.float32


def test_zero_condition_embeds_to_zero(editor):
    assert not editor.network.unet.class_embedding(torch.zeros(1, SPEC.width)).any()


def test_condition_and_index_matter(editor):
    x_t, condition = noisy(), conditions()
    output = editor.raw(x_t, 500, condition)
    assert not torch.allclose(output, editor.raw(x_t, 500, torch.zeros_like(condition)), atol=1e-3)
    assert not torch.allclose(output, editor.raw(x_t, 20, condition), atol=1e-3)


def test_one_index_and_condition_serve_all_slices(editor):
    x_t, condition = noisy(), conditions(1)
    each = editor.eps(x_t, torch.tensor([300, 300]), condition.expand(2, -1))
    assert torch.equal(editor.eps(x_t, 300, condition), each)


def test_index_is_one_more_than_the_networks_timestep(editor):
    seen = []
    handle = editor.network.register_forward_pre_hook(lambda _, args: seen.append(args[1].tolist()))
    editor.raw(noisy(), torch.tensor([1, 1000]), conditions())
    handle.remove()
    assert seen == [[0, 999]]


def test_noise_follows_from_v(editor):
    """eps and x0 from v must reproduce x_t."""
    x_t, index = noisy(), torch.tensor([10, 900])
    v, eps = editor.raw(x_t, index, conditions()), editor.eps(x_t, index, conditions())
    level = editor.alpha_bar[index][:, None, None, None]
    x0 = level.sqrt() * x_t - (1 - level).sqrt() * v
    assert torch.allclose(level.sqrt() * x0 + (1 - level).sqrt() * eps, x_t, atol=1e-5)


def test_editor_that_predicts_noise_returns_it_as_it_is(editor):
    config = EditorConfig(**{**vars(PRESETS["tiny"]), "prediction": "eps"})
    other = Editor(editor.network, SPEC, config)
    assert torch.equal(other.eps(noisy(), 500, conditions()), editor.raw(noisy(), 500, conditions()))


def test_gradients_reach_every_parameter():
    editor = woken(Editor.create("tiny", SPEC))
    editor.network.requires_grad_(True)
    editor.raw(noisy(), 500, conditions()).square().mean().backward()
    # With one token the softmax of the cross attention is 1: its query and key have no influence.
    idle = ("attn2.to_q", "attn2.to_k", "norm2")
    without = [n for n, p in editor.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in without if not any(part in name for part in idle)] == []


def test_null_edit_with_a_network_returns_the_source(editor):
    x0, condition = noisy() * 0.3, conditions(1)
    edited = edit_friendly(
        editor.eps, x0, condition, condition, editor.alpha_bar, index_grid(900, 4), noise=shared_noise(0, 96, 96)
    )
    assert torch.allclose(edited, x0, atol=1e-4)


def test_save_and_load(editor, tmp_path):
    editor.save(tmp_path / "editor", "# Card", half=False)
    loaded = Editor.load(tmp_path / "editor")
    assert loaded.spec == editor.spec
    assert loaded.config == editor.config
    assert len(loaded.sha256) == 64
    assert not loaded.network.training
    assert torch.equal(loaded.eps(noisy(), 400, conditions()), editor.eps(noisy(), 400, conditions()))


def test_half_precision_on_disk_changes_little(editor, tmp_path):
    editor.save(tmp_path / "editor", "# Card")
    assert (tmp_path / "editor" / "model.safetensors").stat().st_size < 6e6
    difference = Editor.load(tmp_path / "editor").eps(noisy(), 400, conditions()) - editor.eps(
        noisy(), 400, conditions()
    )
    assert float(difference.abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("spec", {"ranges": {}}),
        ("editor", {"prediction": "score"}),
        ("editor", {"image_size": 50}),
        ("editor", {"channels": None}),
        ("editor", {"surprise": 1}),
        ("editor", {"head_channels": 0}),
    ],
)
def test_description_that_cannot_be_built_is_refused(editor, tmp_path, part, change):
    editor.save(tmp_path / "editor", "# Card")
    path = tmp_path / "editor" / "model.json"
    description = json.loads(path.read_text())
    description["config"][part].update(change)
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="does not describe a model"):
        Editor.load(tmp_path / "editor")


def test_weights_of_another_size_are_refused(editor, tmp_path):
    editor.save(tmp_path / "editor", "# Card")
    path = tmp_path / "editor" / "model.json"
    description = json.loads(path.read_text())
    description["config"]["editor"]["channels"] = [48, 64, 128]
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="do not fit the network"):
        Editor.load(tmp_path / "editor")


def test_unknown_preset_is_refused():
    with pytest.raises(RequestError, match="no editor preset 'huge'"):
        Editor.create("huge", SPEC)
