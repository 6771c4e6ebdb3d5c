"""Masks: every orientation and crop lands on the same voxels of the scan; what does not fit is one line."""

import numpy as np
import pytest
from duke_tree import segment, write_masks, write_nrrd
from phantoms import affine_of, orientations, rotation

from cfmri_core.data.masks import on_grid, read_tissue_masks
from cfmri_core.errors import RequestError
from cfmri_core.volume import Volume

TRUTH = np.zeros((8, 7, 6), dtype=np.uint8)
TRUTH[1:7, 2:6, 1:5] = 1
TRUTH[2:4, 3:5, 2:4] = 2
SCAN = Volume(np.zeros(TRUTH.shape, np.float32), affine_of(rotation(4, -3, 7)))


def turned(voxels, affine, matrix, crop=0):
    """The same labels on voxel axes permuted and turned by a signed permutation, cropped by some voxels."""
    axes, signs = np.abs(matrix).argmax(axis=0), matrix.sum(axis=0).astype(int)
    moved = voxels.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    corner = [0 if sign > 0 else voxels.shape[axis] - 1 for axis, sign in zip(axes, signs, strict=True)]
    start = np.zeros(3)
    start[axes] = corner
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = matrix, start + crop * matrix.sum(axis=1)
    inner = tuple(slice(crop, size - crop) for size in moved.shape)
    return np.ascontiguousarray(moved[inner]), affine @ place


@pytest.mark.parametrize("crop", [0, 1])
def test_every_orientation_lands_on_the_same_voxels(crop, tmp_path):
    for matrix in orientations():
        labels, affine = turned(TRUTH, SCAN.affine, matrix, crop)
        assert np.array_equal(on_grid(Volume(labels, affine), SCAN, tmp_path).voxels, TRUTH)


@pytest.mark.parametrize("dense_value", [1, 2])
@pytest.mark.parametrize("number", [0, 5, 21])
def test_the_two_files_become_tissue_labels(tmp_path, dense_value, number):
    labels, affine = turned(TRUTH, SCAN.affine, list(orientations())[number])
    folder = write_masks(tmp_path, labels, affine, dense_value=dense_value)
    found = read_tissue_masks(folder, SCAN)
    assert found.has_same_grid(SCAN)
    assert found.voxels.dtype == np.uint8
    assert np.array_equal(found.voxels, TRUTH)


def test_overlapping_segments_lie_in_layers(tmp_path):
    folder = write_masks(tmp_path, TRUTH, SCAN.affine)
    layers = [np.ones_like(TRUTH), (TRUTH == 2).astype(np.uint8)]
    names = segment(0, "Vessels", 1, 0) | segment(1, "Dense", 1, 1)
    write_nrrd(next(folder.glob("*Dense*")), layers, SCAN.affine, names)
    assert np.array_equal(read_tissue_masks(folder, SCAN).voxels, TRUTH)


def test_dense_tissue_outside_the_breast_is_background(tmp_path):
    folder = write_masks(tmp_path, TRUTH, SCAN.affine)
    everywhere = np.full_like(TRUTH, 2)
    write_nrrd(next(folder.glob("*Dense*")), [everywhere], SCAN.affine, segment(0, "Dense", 2))
    assert np.array_equal(read_tissue_masks(folder, SCAN).voxels, 2 * (TRUTH > 0))


@pytest.mark.parametrize(
    "affine",
    [
        affine_of(rotation(4, -3, 7), spacing=(0.9, 1.3, 2.6)),
        affine_of(rotation(4, -3, 17)),
        affine_of(rotation(4, -3, 7), origin=(11.4, -7, 3)),
        affine_of(rotation(4, -3, 7), origin=(25, -7, 3)),
        np.eye(4),
    ],
)
def test_another_grid_is_refused_with_both_sizes(tmp_path, affine):
    with pytest.raises(RequestError, match=r"another grid than its scan: 8x7x6 voxels of .* against 8x7x6"):
        read_tissue_masks(write_masks(tmp_path, TRUTH, affine), SCAN)


def test_a_mask_of_another_size_is_refused(tmp_path):
    larger = np.ones((9, 9, 9), dtype=np.uint8)
    with pytest.raises(RequestError, match="9x9x9 voxels"):
        read_tissue_masks(write_masks(tmp_path, larger, SCAN.affine), SCAN)


def test_unnamed_dense_tissue_is_not_guessed(tmp_path):
    folder = write_masks(tmp_path, TRUTH, SCAN.affine)
    write_nrrd(next(folder.glob("*Dense*")), [TRUTH], SCAN.affine, segment(0, "Segment_1", 1))
    with pytest.raises(RequestError, match="0 segments are named 'dense'"):
        read_tissue_masks(folder, SCAN)


def test_absent_and_damaged_files_are_one_line(tmp_path):
    folder = write_masks(tmp_path, TRUTH, SCAN.affine)
    next(folder.glob("*Dense*")).write_bytes(b"NRRD0004\nnonsense")
    with pytest.raises(RequestError, match="not a readable NRRD"):
        read_tissue_masks(folder, SCAN)
    next(folder.glob("*Dense*")).unlink()
    with pytest.raises(RequestError, match="exactly one"):
        read_tissue_masks(folder, SCAN)


def test_an_endless_mask_is_refused_before_it_is_read(tmp_path):
    folder = write_masks(tmp_path, TRUTH, SCAN.affine)
    header = "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 99999 99999 9999\n"
    header += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\n\n"
    next(folder.glob("*_Breast.seg.nrrd")).write_text(header)
    with pytest.raises(RequestError, match="claims 1e\\+14 voxels"):
        read_tissue_masks(folder, SCAN)
