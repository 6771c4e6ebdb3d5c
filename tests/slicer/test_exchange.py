import gc
import itertools

import numpy as np
import pytest
import slicer
from CounterfactualMRILib import exchange, nifti
from CounterfactualMRILib.exchange import ExchangeProblem
from mrml_fixtures import affineOf, imageOf, makeVolume, oblique, toMatrix


def thereAndBack(source, folder):
    """What an answer would be if the server returned what it was sent."""
    path = folder / "sent.nii"
    nifti.write(path, exchange.snapshotOf(source))
    return exchange.resultNode(nifti.read(path), source)


def orientations():
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, list(axes)] * signs
            yield affine


@pytest.mark.parametrize("orientation", list(orientations()))
@pytest.mark.parametrize("tilt", [np.eye(4), oblique()], ids=["straight", "oblique"])
def test_round_trip_keeps_every_voxel_where_it_is(orientation, tilt, tmp_path):
    affine = tilt @ orientation @ np.diag([0.7, 0.9, 2.5, 1])
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    source = makeVolume(array, affine)
    result = thereAndBack(source, tmp_path)
    corner = [*np.array(array.shape)[::-1] - 1, 1]
    assert np.abs(affineOf(result) @ corner - affineOf(source) @ corner).max() < 1e-3
    assert np.array_equal(slicer.util.arrayFromVolume(result), array)


def test_only_voxels_and_geometry_leave(tmp_path):
    source = makeVolume(name="DOE^JANE 19700101")
    source.SetAttribute("DICOM.instanceUIDs", "1.2.840.99999.1")
    source.SetDescription("DOE")
    path = tmp_path / "sent.nii"
    nifti.write(path, exchange.snapshotOf(source))
    content = path.read_bytes()
    for secret in (b"DOE", b"JANE", b"1.2.840", b"DICOM"):
        assert secret not in content
    assert source.GetStorageNode() is None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_parent_transform_is_not_applied_to_the_file(tmp_path):
    source = makeVolume()
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift = np.eye(4)
    shift[:3, 3] = (25, 0, 0)
    transform.SetMatrixTransformToParent(toMatrix(shift))
    source.SetAndObserveTransformNodeID(transform.GetID())
    result = thereAndBack(source, tmp_path)
    assert np.allclose(affineOf(result), oblique())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slab_of_the_source_is_accepted(axis):
    source = makeVolume(np.zeros((6, 7, 8), np.float32))
    shape, start = [6, 7, 8], [0, 0, 0, 1]
    shape[2 - axis], start[axis] = 2, 3
    affine = oblique()
    affine[:, 3] = affine @ start
    result = exchange.resultNode(imageOf(np.ones(shape, np.float32), affine), source)
    assert np.allclose(affineOf(result), affine)


def offGrid():
    affine = oblique()
    yield "shifted", np.zeros((6, 7, 8)), affine + np.pad([[0.01], [0], [0]], ((0, 1), (3, 0)))
    yield (
        "half a voxel off",
        np.zeros((6, 7, 4)),
        affine @ np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )
    yield "other spacing", np.zeros((6, 7, 8)), affine @ np.diag([1.001, 1, 1, 1])
    yield "flipped", np.zeros((6, 7, 8)), affine @ np.diag([-1, 1, 1, 1])
    yield "too large", np.zeros((6, 7, 9)), affine
    outside = affine.copy()
    outside[:, 3] = affine @ [-1, 0, 0, 1]
    yield "before the first voxel", np.zeros((6, 7, 8)), outside


@pytest.mark.parametrize(("array", "affine"), [case[1:] for case in offGrid()], ids=[case[0] for case in offGrid()])
def test_a_result_off_the_grid_is_refused(array, affine):
    source = makeVolume(np.zeros((6, 7, 8), np.float32))
    with pytest.raises(ExchangeProblem, match="grid"):
        exchange.resultNode(imageOf(array, affine), source)


def test_an_answer_without_an_image_is_refused():
    with pytest.raises(ExchangeProblem, match="no image"):
        exchange.resultNode(None, makeVolume())


def test_voxels_are_shared_and_stay_when_nobody_else_holds_them():
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    node = exchange.nodeOf(imageOf(voxels, oblique()))
    assert np.shares_memory(slicer.util.arrayFromVolume(node), voxels)
    expected = voxels.copy()
    del voxels
    gc.collect()
    np.zeros(24, np.int16).fill(7)
    assert np.array_equal(slicer.util.arrayFromVolume(node), expected)
    source = makeVolume(expected)
    sent = exchange.snapshotOf(source).voxels
    slicer.mrmlScene.RemoveNode(source)
    del source
    gc.collect()
    assert np.array_equal(sent, expected)


def test_what_cannot_be_sent():
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    labels = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    color = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    for node in (None, empty, labels, color, model):
        with pytest.raises(ExchangeProblem) as caught:
            exchange.snapshotOf(node)
        assert caught.value.hint
