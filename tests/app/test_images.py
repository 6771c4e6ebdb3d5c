"""Reading and writing images: NIfTI and NRRD say the same, and what is no image is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from cfmri_server import images
from cfmri_server.images import read_image, write_image
from cfmri_server.problem import TooLargeError

from cfmri_core.errors import CfmriError
from cfmri_core.volume import Volume


@pytest.fixture
def oblique() -> Volume:
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * (0.7, 0.9, 2.5)
    affine[:3, 3] = (-31.0, 12.5, 80.25)
    return Volume(rng.normal(size=(5, 6, 7)).astype(np.float32), affine)


@pytest.mark.parametrize("extension", [".nii.gz", ".nii", ".nrrd"])
def test_an_oblique_volume_comes_back_as_it_was(oblique, tmp_path, extension):
    path = tmp_path / f"v{extension}"
    write_image(path, oblique)
    read = read_image(path)
    assert read.volume.has_same_grid(oblique)
    np.testing.assert_array_equal(read.volume.voxels, oblique.voxels)
    assert read.acquisition.known() == {}


def test_labels_keep_their_type_in_nrrd(oblique, tmp_path):
    write_image(tmp_path / "l.nrrd", oblique.with_voxels(np.ones(oblique.shape, np.uint8)))
    assert sitk.ReadImage(tmp_path / "l.nrrd").GetPixelID() == sitk.sitkUInt8


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii", "x.nrrd"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"NRRD0004\ntype: float\n", b"\x1f\x8b\x08garbage"])
def test_what_is_no_image_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CfmriError):
        read_image(tmp_path / name)


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd"])
def test_an_image_of_too_many_voxels_is_refused_by_its_header(oblique, tmp_path, extension, monkeypatch):
    path = tmp_path / f"v{extension}"
    write_image(path, oblique)
    monkeypatch.setattr(images, "MAX_VOXELS", 100)
    with pytest.raises(TooLargeError):
        read_image(path)


def test_a_header_that_claims_two_to_the_31_voxels_per_axis_is_refused(tmp_path):
    header = "NRRD0004\ntype: float\ndimension: 3\nsizes: 2147483647 2147483647 2\nencoding: raw\nendian: little\n\n"
    (tmp_path / "bomb.nrrd").write_bytes(header.encode() + b"1234")
    with pytest.raises(CfmriError):
        read_image(tmp_path / "bomb.nrrd")


def test_a_colour_image_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([2, 2, 2], sitk.sitkVectorUInt8, 3), tmp_path / "c.nrrd")
    with pytest.raises(CfmriError):
        read_image(tmp_path / "c.nrrd")
