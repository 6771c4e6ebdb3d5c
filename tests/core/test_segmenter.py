import pytest
import torch

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.segmenter import LABELS, Segmenter


def images(batch=2, size=48):
    return torch.randn(batch, 1, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return Segmenter.create("tiny")


def test_logits_of_three_classes(segmenter):
    logits = segmenter.logits(images())
    assert logits.shape == (2, len(LABELS), 48, 48)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize(("preset", "lowest", "highest"), [("paper", 14e6, 16e6), ("tiny", 0.3e6, 0.5e6)])
def test_number_of_parameters(preset, lowest, highest):
    assert lowest <= sum(p.numel() for p in Segmenter.create(preset).network.parameters()) <= highest


def test_tiny_segmenter_does_not_depend_on_the_other_slices(segmenter):
    segmenter.network.train()
    assert torch.allclose(segmenter.logits(images())[:1], segmenter.logits(images()[:1]), atol=0.02)


def test_segmenter_learns_what_it_is_shown(segmenter):
    slices = torch.zeros(2, 1, 48, 48)
    slices[..., :16], slices[..., 32:] = 1.0, 0.5
    labels = torch.zeros(2, 48, 48, dtype=torch.long)
    labels[..., :16], labels[..., 32:] = 1, 2
    optimizer = torch.optim.AdamW(segmenter.network.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(segmenter.logits(slices), labels).backward()
        optimizer.step()
    assert float((segmenter.logits(slices).argmax(1) == labels).float().mean()) > 0.95


def test_save_and_load(segmenter, tmp_path):
    segmenter.save(tmp_path / "segmenter", "# Card", half=False)
    loaded = Segmenter.load(tmp_path / "segmenter")
    segmenter.network.eval()
    assert loaded.config == segmenter.config
    assert loaded.preset == "tiny"
    assert torch.equal(loaded.logits(images()), segmenter.logits(images()))


def test_description_that_cannot_be_built_is_refused(segmenter, tmp_path):
    segmenter.save(tmp_path / "segmenter", "# Card")
    path = tmp_path / "segmenter" / "model.json"
    path.write_text(path.read_text().replace('"channels"', '"widths"'))
    with pytest.raises(CheckpointError, match="does not describe a model"):
        Segmenter.load(tmp_path / "segmenter")


def test_unknown_preset_is_refused():
    with pytest.raises(RequestError, match="no segmenter preset 'huge'"):
        Segmenter.create("huge")
