"""The structure editor's condition, areas and folder."""

import math

import glands
import pytest
import torch

from cfmri_core.errors import RequestError
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import (
    DENOISERS,
    MIDDLE_SHARE,
    StructureEditor,
    areas,
    with_share,
)


def test_the_same_relative_change_is_the_same_step_of_the_condition():
    shares = torch.tensor([0.1, 0.3])
    before, after = with_share(torch.zeros(2, 3), shares), with_share(torch.zeros(2, 3), shares, 1.2)
    steps = (after - before)[:, -1]
    assert float(steps[0]) == pytest.approx(float(steps[1]), rel=1e-4)
    assert before.shape == (2, 5)
    assert before[:, -2].tolist() == [1, 1]
    assert with_share(torch.zeros(1, 3), torch.tensor([MIDDLE_SHARE]))[0, -1] == 0


def test_a_slice_without_fibroglandular_tissue_has_a_condition():
    assert bool(torch.isfinite(with_share(torch.zeros(1, 3), torch.zeros(1))).all())


def test_areas_count_only_what_lies_in_the_breast():
    probabilities = torch.zeros(1, 3, 4, 4)
    probabilities[:, 2] = 0.5
    breast = torch.zeros(1, 1, 4, 4)
    breast[..., :2] = 1
    gland, whole = areas(probabilities, breast)
    assert (float(gland), float(whole)) == (4.0, 8.0)


def test_eps_is_what_v_says():
    """v prediction: eps = sqrt(a) v + sqrt(1 - a) x_t (Salimans and Ho 2022, appendix D)."""
    made = glands.editor()
    x_t, breast = torch.randn(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    condition = made.conditions([glands.PROTOCOL], torch.tensor([0.1, 0.2]))
    denoiser = made.denoiser("base")
    with torch.no_grad():
        v, eps = (call(denoiser, x_t, 300, condition, breast) for call in (made.v, made.eps))
    level = float(made.alpha_bar[300])
    torch.testing.assert_close(eps, math.sqrt(level) * v + math.sqrt(1 - level) * x_t, atol=2e-3, rtol=1e-2)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    torch.manual_seed(0)
    made = StructureEditor.create("tiny", glands.SPEC, Segmenter.create("tiny"), Segmenter.create("fine"))
    made.save(tmp_path / "model", "A card.", half=False)
    again = StructureEditor.load(tmp_path / "model")
    assert again.config == made.config
    assert again.segmenter.config == made.segmenter.config
    for name in DENOISERS:
        for ours, theirs in zip(made.denoiser(name).parameters(), again.denoiser(name).parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)
    images = torch.rand(1, 1, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(made.probabilities(images), again.probabilities(images))


def test_there_is_no_such_preset():
    with pytest.raises(RequestError, match="structure editor preset"):
        StructureEditor.create("huge", glands.SPEC, Segmenter.create("tiny"), Segmenter.create("fine"))
