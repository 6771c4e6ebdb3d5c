import pytest
import torch
from breasts import SPEC
from lesions import lesion_editor

from cfmri_core.errors import RequestError
from cfmri_core.models.lesion_editor import PRESETS, LesionEditor, LesionEditorConfig, PaletteEditor, box_value


def test_a_saved_editor_answers_the_same(tmp_path):
    editor = lesion_editor()
    editor.save(tmp_path / "lesion_editor", "Card.", half=False)
    loaded = LesionEditor.load(tmp_path / "lesion_editor")
    x, context, condition = torch.randn(2, 1, 24, 24), torch.rand(2, 2, 24, 24), torch.zeros(1, SPEC.width)
    assert loaded.config == editor.config
    assert torch.allclose(loaded.eps(x, 500, condition, context), editor.eps(x, 500, condition, context), atol=1e-5)


def test_what_it_is_told_decides_what_it_answers():
    editor = lesion_editor()
    x, condition = torch.randn(1, 1, 24, 24), torch.zeros(1, SPEC.width)
    with_lesion = torch.ones(1, 2, 24, 24)
    without = torch.cat([torch.zeros(1, 1, 24, 24), torch.ones(1, 1, 24, 24)], dim=1)
    assert not torch.allclose(editor.eps(x, 500, condition, with_lesion), editor.eps(x, 500, condition, without))


def test_palette_sees_two_images_more():
    assert PaletteEditor.context_images == LesionEditor.context_images + 2
    assert PaletteEditor.create("tiny", SPEC).kind == "palette_editor"


def test_a_box_tells_how_far_a_slice_lies_from_its_middle():
    assert box_value(0) > box_value(0.5) > box_value(1) == box_value(2) > 0
    assert box_value(0) < 1


def test_presets_and_configurations_are_checked():
    assert set(PRESETS) == {"tiny", "paper"}
    with pytest.raises(RequestError, match="no lesion editor preset 'huge'"):
        LesionEditor.create("huge", SPEC)
    with pytest.raises(ValueError, match="pixel_mm"):
        LesionEditorConfig.from_json({**PRESETS["tiny"].to_json(), "pixel_mm": 0.0})
