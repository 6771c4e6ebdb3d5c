"""Reading and writing images: NIfTI and NRRD say the same, and what is no image is refused."""

from __future__ import annotations

import gzip

import nibabel
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


def nifti_header(kind, shape, offset=None):
    header = kind()
    header.set_data_dtype(np.float32)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    if offset:
        header["vox_offset"] = offset
    return header.binaryblock


MILLIONS_OF_ZEROS = bytes(2**20) * 80


@pytest.mark.parametrize(
    "content",
    [
        nifti_header(nibabel.Nifti2Header, (2**31, 2**31, 2)),
        nifti_header(nibabel.Nifti1Header, (32767, 32767, 32767)),
        nifti_header(nibabel.Nifti1Header, (1000, 1000, 500)) + MILLIONS_OF_ZEROS,
        nifti_header(nibabel.Nifti1Header, (2, 2, 2), 2**30) + b"\1\0\0\0" + b"\0\0\0\x40" + MILLIONS_OF_ZEROS,
    ],
    ids=["2^31 per axis", "32767 per axis", "zeros that unfold", "extension that unfolds"],
)
@pytest.mark.parametrize("extension", [".nii.gz", ".nii"])
def test_a_small_file_that_claims_a_large_image_is_refused(tmp_path, content, extension):
    path = tmp_path / f"bomb{extension}"
    path.write_bytes(gzip.compress(content) if extension == ".nii.gz" else content[:10_000])
    with pytest.raises(TooLargeError):
        read_image(path)


@pytest.mark.parametrize("field", ["data file", "DataFile", "datafile"])
def test_nrrd_data_in_another_file_are_not_read(tmp_path, field):
    (tmp_path / "secret.raw").write_bytes(bytes(32))
    header = (
        f"NRRD0004\ntype: float\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nendian: little\n{field}: secret.raw\n\n"
    )
    (tmp_path / "thief.nrrd").write_text(header)
    with pytest.raises(CfmriError, match="another file"):
        read_image(tmp_path / "thief.nrrd")


def read_by_itk(path):
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        return sitk.GetArrayFromImage(reader.Execute()).tobytes()
    except RuntimeError:
        return b""


def test_nrrd_data_in_another_file_are_not_read_whatever_ends_the_lines(tmp_path):
    rng = np.random.default_rng(5)
    secret = b"DOE^JANE" * 8
    (tmp_path / "secret.raw").write_bytes(secret)
    fields = ["type: uint8", "dimension: 3", "sizes: 4 4 4", "encoding: raw", "# note", "key:=value"]
    thief, could = tmp_path / "thief.nrrd", 0
    for _ in range(300):
        name = rng.choice(["data file", "datafile", "Data File", "DATAFILE"])
        lines = [*rng.permutation([*fields, f"{name}: {tmp_path}/secret.raw"]), "", "", ""]
        ends = rng.choice(["\n", "\r", "\r\n"], len(lines) + 1)
        thief.write_bytes("".join(line + end for line, end in zip(["NRRD0004", *lines], ends, strict=True)).encode())
        could += read_by_itk(thief) == secret
        with pytest.raises(CfmriError):
            read_image(thief)
    assert could > 100  # ITK alone would have read it


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_nrrd_with_any_line_end_is_read(tmp_path, end):
    header = ["NRRD0004", "type: uint8", "dimension: 3", "sizes: 2 2 2", "encoding: raw", "", ""]
    (tmp_path / "v.nrrd").write_bytes(end.join(header).encode() + bytes(range(1, 9)))
    assert read_image(tmp_path / "v.nrrd").volume.voxels.sum() == 36


@pytest.mark.parametrize("extension", [".hdf5", ".mha", ".vtk", ".tif", ".nii", ".gipl"])
def test_another_format_under_the_name_of_nrrd_is_refused(tmp_path, extension):
    other = tmp_path / f"v{extension}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 4, 4), np.float32)), other)
    disguised = tmp_path / "v.nrrd"
    disguised.write_bytes(other.read_bytes() + b"\n\n")
    with pytest.raises(CfmriError):
        read_image(disguised)


def test_a_colour_image_is_refused(tmp_path):
    sitk.WriteImage(sitk.Image([2, 2, 2], sitk.sitkVectorUInt8, 3), tmp_path / "c.nrrd")
    with pytest.raises(CfmriError):
        read_image(tmp_path / "c.nrrd")
