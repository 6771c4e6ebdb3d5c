import dataclasses

import numpy as np
import pytest
import torch
from breasts import AFFINE
from lesions import lesion_mask, scan_without

from cfmri_core.data.catalogue import Study
from cfmri_core.data.lesion_scans import (
    body,
    cut,
    lesion_scan,
    load_healthy_scans,
    load_lesion_scans,
    paste,
    working_stack,
)
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.volume import Volume


def test_a_patch_is_cut_out_and_put_back_also_over_the_edge():
    images = torch.arange(2 * 64, dtype=torch.float32).reshape(2, 1, 8, 8)
    for centre in ((4, 4), (1, 7), (7, 0)):
        patch = cut(images, centre, 6)
        assert patch.shape == (2, 1, 6, 6)
        assert torch.equal(paste(images, patch, centre), images)
        changed = paste(images, patch + 1, centre) - images
        assert set(changed.unique().tolist()) == {0.0, 1.0}


def test_the_working_pixel_has_the_size_that_is_asked_for():
    stack = working_stack(scan_without(), 2.0)
    assert stack.image_size == 36
    assert working_stack(scan_without(), 4.0).image_size == 18


def test_a_scan_is_laid_out_with_its_lesions_numbered():
    mask = lesion_mask()
    mask[27:29, 16:18, 1:3] = True
    scan = lesion_scan(scan_without(), mask, None, PRESETS["ge-hdx-3t"], 2.0)
    assert scan.images.shape == scan.lesions.shape == scan.breast.shape == (6, 36, 36)
    assert set(scan.lesions.unique().tolist()) == {0, 1, 2}
    assert len(scan.boxes) == 2
    assert scan.boxes[0][0] == slice(2, 4)
    assert scan.patch(scan.lesions, 2, (18, 9), 16).sum() > 0


def test_air_is_no_body():
    voxels = scan_without().voxels
    assert body(voxels)[voxels > 300].all()


def test_studies_are_read_with_their_masks(tmp_path):
    volume = scan_without()
    write_nifti(tmp_path / "a.nii.gz", volume, None)
    write_nifti(tmp_path / "m.nii.gz", volume.with_voxels(lesion_mask().astype(np.uint8)), None)
    study = Study("a", tmp_path / "a.nii.gz", lesion_path=tmp_path / "m.nii.gz", acquisition=PRESETS["ge-hdx-3t"])
    (scan,) = load_lesion_scans([study, Study("b", tmp_path / "a.nii.gz")], 2.0)
    assert (scan.lesions > 0).sum() == lesion_mask().sum()
    assert scan.parameters.manufacturer_model == "SIGNA HDx"
    with pytest.raises(RequestError, match="No study has a lesion mask"):
        load_lesion_scans([Study("b", tmp_path / "a.nii.gz")], 2.0)
    write_nifti(tmp_path / "m.nii.gz", Volume(np.ones((4, 4, 4), np.uint8), AFFINE), None)
    with pytest.raises(GeometryError, match="another grid"):
        load_lesion_scans([dataclasses.replace(study)], 2.0)


def test_scans_without_lesion_are_read_and_others_refused(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", scan_without(), None)
    free = Study("a", tmp_path / "a.nii.gz", acquisition=PRESETS["ge-hdx-3t"])
    told = []
    (scan,) = load_healthy_scans([free], 2.0, lambda *step: told.append(step))
    assert not scan.lesions.any()
    assert scan.boxes == ()
    assert scan.parameters.manufacturer_model == "SIGNA HDx"
    assert told == [(1, 1, "a")]
    with pytest.raises(RequestError, match="b has a lesion mask"):
        load_healthy_scans([free, dataclasses.replace(free, subject_id="b", lesion_path=tmp_path / "m.nii.gz")], 2.0)


def test_labels_that_mark_no_tissue_are_refused_by_name(tmp_path):
    volume = scan_without()
    write_nifti(tmp_path / "a.nii.gz", volume, None)
    write_nifti(tmp_path / "m.nii.gz", volume.with_voxels(lesion_mask().astype(np.uint8)), None)
    write_nifti(tmp_path / "empty.nii.gz", volume.with_voxels(np.zeros(volume.shape, np.uint8)), None)
    study = Study("a", tmp_path / "a.nii.gz", tmp_path / "empty.nii.gz", lesion_path=tmp_path / "m.nii.gz")
    with pytest.raises(RequestError, match=r"empty.nii.gz marks no tissue"):
        load_lesion_scans([study], 2.0)
