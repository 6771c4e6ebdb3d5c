"""The structure counterfactual of a volume."""

import math
import re

import glands
import numpy as np
import pytest
import torch

from cfmri_core.errors import Cancelled, GeometryError, RequestError
from cfmri_core.pipeline.structure import GOOD_ENOUGH, MOST_ROUNDS, StructureRequest, edit_structure


@pytest.fixture(scope="module")
def editor():
    return glands.editor()


@pytest.fixture(scope="module")
def source():
    return glands.breast()


def edited(source, editor, **request):
    return edit_structure(source, glands.PROTOCOL, StructureRequest(method="guidance", **request), editor)


@pytest.mark.parametrize("delta", [-0.3, 0.3])
def test_the_share_moves_towards_what_was_asked(source, editor, delta):
    """With a denoiser that was never trained, and a segmenter whose gradient ends a pixel from the border."""
    told = edited(source, editor, delta=delta).evidence["structure"]
    assert told["share_asked"] == pytest.approx((1 + delta) * told["share_before"], rel=1e-3)
    assert abs(told["relative_error"]) < abs(1 / (1 + delta) - 1) * 0.9
    is_near = abs(math.log1p(told["relative_error"])) < GOOD_ENOUGH
    assert is_near or told["rounds"] == MOST_ROUNDS  # it stops early for one reason only


def test_a_fraction_and_the_change_that_leads_to_it_are_the_same(source, editor):
    by_change = edited(source, editor, delta=0.2)
    wanted = by_change.evidence["structure"]["share_before"] * 1.2
    by_share = edited(source, editor, fgt_fraction=wanted)
    assert np.abs(by_share.volume.voxels - by_change.volume.voxels).max() <= 15  # the share is told to 5 digits


def test_outside_the_breast_every_stored_value_stays_and_whole_numbers_stay_whole(source, editor):
    result = edited(source, editor, delta=0.3)
    i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    outside = (i - 20) ** 2 + (j - 20) ** 2 > 17**2
    assert np.array_equal(result.volume.voxels[outside], source.voxels[outside])
    assert np.array_equal(result.volume.voxels, np.rint(result.volume.voxels))
    assert result.evidence["structure"]["largest_change_outside"] == 0
    assert result.evidence["structure"]["breast_voxels_changed"] > 0
    assert result.volume.has_same_grid(source)


def test_no_change_asked_returns_the_source(source, editor):
    result = edited(source, editor, delta=0.0)
    assert np.array_equal(result.volume.voxels, source.voxels)
    assert result.evidence["structure"]["rounds"] == 0


def test_the_evidence_names_model_method_and_seed(source, editor):
    evidence = edited(source, editor, delta=0.1, seed=3).evidence
    assert evidence["synthetic"] is True
    assert evidence["model"]["kind"] == "structure_editor"
    assert (evidence["method"], evidence["seed"]) == ("guidance", 3)
    assert evidence["requested"] == evidence["factual"] == glands.PROTOCOL.as_dict()


def test_a_share_that_is_not_reached_is_said(source, editor):
    """The untrained denoiser cannot do it, and one edit is all it gets."""
    request = StructureRequest(delta=0.6, method="base", rounds=1)
    evidence = edit_structure(source, glands.PROTOCOL, request, editor).evidence
    if abs(evidence["structure"]["relative_error"]) > 0.05:
        assert evidence["warnings"]


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"delta": 0.1, "fgt_fraction": 0.2},
        {"delta": 0.9},
        {"delta": -0.5},
        {"fgt_fraction": 0.9},
        {"fgt_fraction": float("nan")},
        {"delta": 0.1, "method": "magic"},
        {"delta": 0.1, "rounds": 0},
        {"delta": 0.1, "seed": -1},
    ],
)
def test_what_cannot_be_asked_for_is_refused(request_):
    with pytest.raises(RequestError):
        StructureRequest(**request_)


def test_a_share_too_far_from_this_breast_names_what_is_near_enough(source, editor):
    with pytest.raises(RequestError, match=r"changes this breast's 0\.\d+ by .*Give 0\.\d+ to 0\.\d+"):
        edited(source, editor, fgt_fraction=0.6)


@pytest.mark.parametrize("present", [0.1036, 0.1501, 0.0149, 0.7])
def test_the_shares_that_a_refusal_names_are_accepted(present):
    with pytest.raises(RequestError) as caught:
        StructureRequest(fgt_fraction=0.8 if present < 0.4 else 0.01).ratio(present)
    for share in re.findall(r"0\.\d+", caught.value.hint):
        StructureRequest(fgt_fraction=float(share)).ratio(present)


def test_a_volume_without_a_breast_is_refused(source, monkeypatch):
    sees_nothing = glands.editor()
    air = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    monkeypatch.setattr(
        sees_nothing.network.segmenter, "forward", lambda images: 9 * air.expand(len(images), 3, 32, 32)
    )
    with pytest.raises(GeometryError, match="No breast"):
        edited(source, sees_nothing, delta=0.1)


def test_it_can_be_cancelled(source, editor):
    def stop(step, total, message):
        raise Cancelled("Enough.")

    with pytest.raises(Cancelled):
        edit_structure(source, glands.PROTOCOL, StructureRequest(delta=0.1), editor, progress=stop)


def test_values_that_are_not_finite_are_an_error(source, editor):
    broken = glands.editor()
    with torch.no_grad():
        for weights in broken.denoiser("seg-cft").parameters():
            weights.fill_(float("nan"))
    with pytest.raises(Exception, match="not finite"):
        edit_structure(source, glands.PROTOCOL, StructureRequest(delta=0.1), broken)
