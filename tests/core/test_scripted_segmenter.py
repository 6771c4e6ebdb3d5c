import pytest
import torch
from torch import nn

from cfmri_core.errors import CheckpointError, ModelOutputError
from cfmri_core.models.scripted_segmenter import ScriptedSegmenter, load_any_segmenter
from cfmri_core.models.segmenter import Segmenter


class Threshold(nn.Module):
    """Background, fat, gland by intensity."""

    def __init__(self, classes: int = 3, image_size: int = 0):
        super().__init__()
        self.classes = classes
        self.image_size = image_size

    def forward(self, x):
        if x.shape[1] != 1:
            raise RuntimeError("one channel")
        return torch.cat([-(x - 0.5 * k).abs() for k in range(self.classes)], dim=1)


class Unsized(nn.Module):
    def forward(self, x):
        return torch.cat([x, x / 0, x], dim=1)


def saved(module, folder):
    path = folder / "segmenter.ts"
    torch.jit.script(module).save(str(path))
    return path


def test_a_module_is_used_as_ours_is(tmp_path):
    segmenter = ScriptedSegmenter.load(saved(Threshold(image_size=64), tmp_path))
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    assert segmenter.logits(images).argmax(1)[:, 0, 0].tolist() == [0, 1, 2]
    assert segmenter.image_size == 64
    assert len(segmenter.sha256) == 64
    assert segmenter.device == torch.device("cpu")
    assert segmenter.preset == "torchscript"


def test_the_caller_says_the_size_where_the_module_does_not(tmp_path):
    assert load_any_segmenter(saved(Unsized(), tmp_path), image_size=160).image_size == 160


@pytest.mark.parametrize("module", [Threshold(classes=2), Unsized()])
def test_other_outputs_are_refused(tmp_path, module):
    segmenter = ScriptedSegmenter.load(saved(module, tmp_path))
    with pytest.raises(ModelOutputError, match="background, fat and fibroglandular"):
        segmenter.logits(torch.rand(2, 1, 8, 8))


def test_a_module_that_fails_is_said_in_one_line(tmp_path):
    segmenter = ScriptedSegmenter.load(saved(Threshold(), tmp_path))
    with pytest.raises(ModelOutputError, match=r"fails on slices of shape \(2, 2, 8, 8\)"):
        segmenter.logits(torch.rand(2, 2, 8, 8))


def test_what_is_not_torchscript_is_refused(tmp_path):
    (tmp_path / "text.ts").write_text("no program")
    with pytest.raises(CheckpointError, match="not a readable TorchScript file"):
        load_any_segmenter(tmp_path / "text.ts")
    with pytest.raises(CheckpointError, match=r"absent\.ts: No such file"):
        load_any_segmenter(tmp_path / "absent.ts")


def test_our_own_folders_are_loaded_as_ever(tmp_path):
    Segmenter.create("tiny").save(tmp_path / "model", "Untrained.")
    assert load_any_segmenter(tmp_path / "model").image_size == 96
    with pytest.raises(CheckpointError, match="no model of kind 'segmenter'"):
        load_any_segmenter(tmp_path / "absent")
