"""Files of the extension's NIfTI code against nibabel's, in both directions."""

import gzip
import os

import nibabel
import numpy as np
import pytest
from CounterfactualMRILib import nifti
from CounterfactualMRILib.nifti import Image, ImageFileProblem

AFFINE = np.array([[-0.6, 0.1, 0.2, 40.25], [0.1, 0.7, -0.3, -30.5], [0.05, 0.2, 2.9, 12.125], [0, 0, 0, 1]])
KINDS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64]


def voxels(kind=np.int16):
    return np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(kind)


def imageOf(array, affine=AFFINE):
    return Image(array, tuple(map(tuple, affine.tolist())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nibabel_reads_what_is_written(tmp_path, kind, ending):
    path = tmp_path / f"a{ending}"
    nifti.write(path, imageOf(voxels(kind)))
    found = nibabel.load(path)
    assert found.get_data_dtype() == kind
    assert np.array_equal(np.asanyarray(found.dataobj), voxels(kind).T)
    assert np.abs(found.affine - AFFINE).max() < 1e-5
    assert found.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_nibabel_writes_is_read(tmp_path, kind, order):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(kind)
    nibabel.save(nibabel.Nifti1Image(voxels(kind).T, AFFINE, header), tmp_path / "a.nii.gz")
    found = nifti.read(tmp_path / "a.nii.gz")
    assert found.voxels.dtype == kind
    assert np.array_equal(found.voxels, voxels(kind))
    assert np.abs(np.array(found.ijkToRAS) - AFFINE).max() < 1e-5


@pytest.mark.parametrize("flip", [1, -1])
def test_a_position_by_quaternion_is_read(tmp_path, flip):
    rotation, _ = np.linalg.qr(AFFINE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.sign(np.linalg.det(rotation)) @ np.diag([0.7, 0.8, flip * 2.5])
    affine[:3, 3] = (10, -20, 30)
    image = nibabel.Nifti1Image(voxels().T, affine)
    image.set_sform(None, code=0)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert np.abs(np.array(nifti.read(tmp_path / "a.nii").ijkToRAS) - affine).max() < 1e-5


def test_scaled_numbers_become_what_they_mean(tmp_path):
    image = nibabel.Nifti1Image(voxels().T, AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "a.nii")
    assert nifti.read(tmp_path / "a.nii").voxels == pytest.approx(
        np.asarray(nibabel.load(tmp_path / "a.nii").dataobj).T
    )


def test_kinds_that_nifti_lacks_become_float32(tmp_path):
    nifti.write(tmp_path / "a.nii", imageOf(voxels(np.int64)[:, ::-1]))
    found = nifti.read(tmp_path / "a.nii")
    assert found.voxels.dtype == np.float32
    assert np.array_equal(found.voxels, voxels()[:, ::-1])


def damaged():
    good = nibabel.Nifti1Image(voxels().T, AFFINE).to_bytes()
    yield "nothing", b""
    yield "garbage", os.urandom(1000)
    yield "cut header", good[:200]
    yield "cut voxels", good[:-1]
    yield "cut gzip", gzip.compress(good)[:-20]
    yield "damaged gzip", b"\x1f\x8b" + os.urandom(500)
    yield "other magic", good[:344] + b"xyz\0" + good[348:]
    yield "no position", good[:252] + bytes(4) + good[256:]
    yield "complex", nibabel.Nifti1Image(voxels().T.astype(np.complex64), AFFINE).to_bytes()
    yield "four volumes", nibabel.Nifti1Image(np.zeros((2, 2, 2, 4), np.int16), AFFINE).to_bytes()
    yield "flat", nibabel.Nifti1Image(np.zeros((2, 2), np.int16), AFFINE).to_bytes()
    yield "bomb", good[:42] + np.array([32767] * 3, "<i2").tobytes() + good[48:]


@pytest.mark.parametrize("content", [case[1] for case in damaged()], ids=[case[0] for case in damaged()])
def test_what_cannot_be_read_is_refused_with_a_hint(tmp_path, content):
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(ImageFileProblem, match="cannot be read") as caught:
        nifti.read(path)
    assert caught.value.hint


def test_a_place_that_cannot_be_written_to(tmp_path):
    with pytest.raises(ImageFileProblem, match="could not be written"):
        nifti.write(tmp_path / "absent" / "a.nii", imageOf(voxels()))
