import numpy as np
import pytest
import torch

from cfmri_core.active_learning import disagreement as module
from cfmri_core.active_learning.disagreement import (
    Views,
    counterfactual_disagreement,
    counterfactual_views,
    disagreement,
    other_protocols,
)
from cfmri_core.errors import Cancelled
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.method import load_editor
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

GE = PRESETS["ge-hdx-3t"]


class ThresholdSegmenter:
    """Fat is what is brighter than 0.5, fibroglandular tissue what is brighter than 1.5."""

    device = torch.device("cpu")

    def logits(self, images):
        fat, gland = images[:, 0] > 0.5, images[:, 0] > 1.5
        return torch.stack([~fat, fat & ~gland, gland], dim=1).float()


def image(fat_columns, gland_columns=4):
    slices = torch.zeros(2, 1, 16, 16)
    slices[..., :fat_columns] = 1.0
    slices[..., 4, :gland_columns] = 2.0
    return slices


def test_what_is_drawn_alike_under_every_protocol_has_no_disagreement():
    assert disagreement(Views(image(8), [image(8), image(8)]), ThresholdSegmenter()) == 0


def distance(gland_columns, other_gland_columns):
    """One minus the mean Dice of both tissues of two images."""
    body, one, other = 2 * 16 * 8, 2 * gland_columns, 2 * other_gland_columns  # voxels in both slices
    fat = 2 * (body - max(one, other)) / (2 * body - one - other)
    gland = 2 * min(one, other) / (one + other)
    return 1 - (fat + gland) / 2


def test_it_is_how_much_further_the_scan_lies_from_its_counterfactuals_than_they_from_each_other():
    views = Views(image(8, 4), [image(8, 2), image(8, 3), image(8, 3)])
    from_scan = (distance(4, 2) + 2 * distance(4, 3)) / 3
    from_each_other = 2 * distance(2, 3) / 3
    assert disagreement(views, ThresholdSegmenter()) == pytest.approx(from_scan - from_each_other, abs=1e-6)


def test_what_changes_with_every_protocol_alike_is_not_the_fault_of_the_scan():
    fine = Views(image(8, 1), [image(8, 2), image(8, 4)])
    odd_one_out = Views(image(8, 2), [image(8, 4), image(8, 4)])
    assert disagreement(odd_one_out, ThresholdSegmenter()) > disagreement(fine, ThresholdSegmenter())


def test_a_tissue_that_nobody_finds_does_not_count():
    empty = torch.zeros(1, 1, 16, 16)
    assert disagreement(Views(empty, [empty]), ThresholdSegmenter()) == 0


def test_the_own_scanner_is_left_out_and_what_blurs_stays():
    protocols = other_protocols(GE.replaced({"slice_thickness_mm": 1.1, "echo_time_ms": 2.5}))
    assert len(protocols) == len(PRESETS) - 1
    assert GE.manufacturer_model not in {p.manufacturer_model for p in protocols if p.field_strength_t == 3.0}
    assert {protocol.slice_thickness_mm for protocol in protocols} == {1.1}
    assert len({protocol.echo_time_ms for protocol in protocols}) > 4


@pytest.fixture(scope="module")
def volume():
    """A bright ellipse in four slices, with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    shape = ((rows - 24) / 18) ** 2 + ((columns - 24) / 14) ** 2 < 1
    voxels = 300 * shape[..., None] + 10 * rng.random((48, 48, 4))
    return Volume(voxels.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter.create("tiny")


def test_the_same_scan_and_models_give_the_same_value(volume, segmenter):
    editor: DirectEditor = load_editor("fast")
    first = counterfactual_disagreement(volume, GE, editor, segmenter)
    assert first == counterfactual_disagreement(volume, GE, editor, segmenter)
    assert -1 <= first <= 1


def test_views_are_the_scan_and_one_image_for_each_protocol(volume, segmenter):
    steps = []
    views = counterfactual_views(
        volume, GE, load_editor("fast"), segmenter.image_size, progress=lambda *report: steps.append(report[:2])
    )
    assert views.scan.shape == (4, 1, segmenter.image_size, segmenter.image_size)
    assert all(view.shape == views.scan.shape for view in views.counterfactuals)
    assert steps == [(number, 7) for number in range(1, 8)]
    assert not torch.equal(views.counterfactuals[0], views.counterfactuals[-1])


def test_it_can_be_cancelled_between_counterfactuals(volume, segmenter, monkeypatch):
    edited = []
    edit = module.edit_volume
    monkeypatch.setattr(module, "edit_volume", lambda *given: edited.append(1) or edit(*given))

    def cancel(step, total, message):
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        counterfactual_disagreement(volume, GE, load_editor("fast"), segmenter, progress=cancel)
    assert len(edited) == 1
