import dataclasses

import numpy as np
import pytest
from lesions import lesion_editor, lesion_mask, palette_editor, scan_without

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import Cancelled, RequestError
from cfmri_core.pipeline.lesion_editing import edit_lesion
from cfmri_core.pipeline.lesion_method import LESION_METHODS, LesionRequest, load_lesion_editor
from cfmri_core.pipeline.lesion_region import AskedRegion, breast_mask
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume

SHOWN = PRESETS["ge-hdx-3t"]


def edited(volume=None, method="mededit", mode="insert", is_box=False, seed=0, mask=None):
    volume = volume or scan_without()
    editor = palette_editor() if LESION_METHODS[method].model == "palette_editor" else lesion_editor()
    request = LesionRequest(mode=mode, method=method, steps=3, seed=seed)
    asked = AskedRegion(lesion_mask() if mask is None else mask, is_box=is_box)
    return edit_lesion(volume, SHOWN, asked, request, editor, breast_mask(volume, None))


@pytest.mark.parametrize("method", LESION_METHODS)
@pytest.mark.parametrize("mode", ["insert", "remove"])
def test_outside_the_region_every_voxel_is_the_sources(method, mode):
    volume = scan_without(whole=False)
    result = edited(volume, method, mode)
    assert np.array_equal(result.volume.voxels[~result.region], volume.voxels[~result.region])
    assert not np.array_equal(result.volume.voxels, volume.voxels)
    assert result.evidence["unchanged"]["max_abs_difference_outside"] == 0
    assert result.evidence["synthetic"]


def test_a_scan_of_whole_numbers_stays_one():
    voxels = edited().volume.voxels
    assert np.array_equal(voxels, np.rint(voxels))
    assert voxels.min() >= 0


def test_mededit_may_change_more_than_repaint():
    dilated, naive, whole = (edited(method=method).region for method in ("mededit", "repaint", "sdedit"))
    assert np.array_equal(naive, lesion_mask() & naive)
    assert naive.sum() < dilated.sum()
    assert whole.sum() > naive.sum()


def test_mask_box_and_removal_differ_and_the_seed_decides():
    mask, again, box = edited(), edited(), edited(is_box=True)
    assert np.array_equal(mask.volume.voxels, again.volume.voxels)
    for other in (box, edited(mode="remove"), edited(seed=1)):
        assert not np.array_equal(mask.volume.voxels, other.volume.voxels)
    assert mask.evidence["asked"] == {"given_as": "mask", "volume_ml": pytest.approx(32 * 16 / 1000, abs=1e-3)}
    assert box.evidence["asked"]["given_as"] == "box"


def test_a_region_that_lies_partly_outside_of_the_breast_is_said_to():
    volume, asked, request = scan_without(), AskedRegion(lesion_mask(), is_box=False), LesionRequest(steps=1)
    breast = breast_mask(volume, None)
    whole = edit_lesion(volume, SHOWN, asked, request, lesion_editor(), breast).evidence["warnings"]
    breast[9:] = False
    half = edit_lesion(volume, SHOWN, asked, request, lesion_editor(), breast).evidence["warnings"]
    assert not any("region" in warning for warning in whole)
    assert "region: 50 % of it lies outside of the breast" in half[-1]


def test_the_grid_may_lie_in_any_way(monkeypatch):
    volume = scan_without()
    turned = dataclasses.replace(
        volume, voxels=volume.voxels[:, ::-1].copy(), affine=volume.affine @ np.diag([1, -1, 1, 1.0])
    )
    turned.affine[:3, 3] = (volume.affine @ [0, volume.shape[1] - 1, 0, 1])[:3]
    straight, mirrored = edited(volume), edited(turned, mask=lesion_mask()[:, ::-1])
    assert np.allclose(straight.volume.voxels, mirrored.volume.voxels[:, ::-1], atol=1.01)


@pytest.mark.parametrize("method", LESION_METHODS)
@pytest.mark.parametrize("first", range(4))
def test_a_region_that_is_small_beside_the_networks_pixels_is_edited(method, first):
    """Of a matrix of 512 and more, a few voxels may hold no centre of a pixel of 2.3 mm."""
    coarse, times = scan_without(whole=False), 4
    affine = coarse.affine @ np.diag([1 / times, 1 / times, 1, 1])
    volume = Volume(coarse.voxels.repeat(times, axis=0).repeat(times, axis=1), affine)
    for is_box in (True, False):
        mask = np.zeros(volume.shape, bool)
        mask[32 + first : 34 + first, 72:74, 2] = True
        result = edited(volume, method, is_box=is_box, mask=mask)
        assert not np.array_equal(result.volume.voxels, volume.voxels)
        assert np.array_equal(result.volume.voxels[~result.region], volume.voxels[~result.region])


def test_a_region_larger_than_the_patch_is_refused():
    mask = np.zeros(scan_without().shape, bool)
    mask[2:34, 10:22, 2:4] = True
    with pytest.raises(RequestError, match=r"spans \d+ mm"):
        edited(mask=mask)


def test_the_wrong_kind_of_editor_is_refused():
    volume, asked = scan_without(), AskedRegion(lesion_mask(), is_box=False)
    with pytest.raises(RequestError, match="palette_editor"):
        edit_lesion(volume, SHOWN, asked, LesionRequest(method="palette"), lesion_editor(), breast_mask(volume, None))


def test_an_edit_can_be_cancelled():
    def cancel(*_):
        raise Cancelled("Enough.")

    volume, asked = scan_without(), AskedRegion(lesion_mask(), is_box=False)
    with pytest.raises(Cancelled):
        edit_lesion(
            volume, AcquisitionParameters(), asked, LesionRequest(steps=2), lesion_editor(),
            breast_mask(volume, None), progress=cancel,
        )  # fmt: skip


@pytest.mark.parametrize("wrong", [{"mode": "move"}, {"method": "magic"}, {"steps": 0}, {"steps": 1000}, {"seed": -1}])
def test_a_wrong_request_is_refused(wrong):
    with pytest.raises(RequestError):
        LesionRequest(**wrong)


def test_models_are_loaded_by_method(tmp_path):
    lesion_editor().save(tmp_path / "lesion_editor", "Card.")
    palette_editor().save(tmp_path / "palette_editor", "Card.")
    assert load_lesion_editor("mededit", tmp_path).kind == "lesion_editor"
    assert load_lesion_editor("palette", tmp_path).kind == "palette_editor"
