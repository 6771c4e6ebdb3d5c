import numpy as np
import pytest
import slicer
from CounterfactualMRILib import segmentation
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.nifti import Image
from CounterfactualMRILib.region import regionOf
from CounterfactualMRILib.schema import LabelClass
from mrml_fixtures import affineOf, imageOf, makeVolume, toMatrix


@pytest.fixture
def volume():
    return makeVolume()


def roiAt(volume, ijk, sizes):
    """An ROI along the volume's axes, of so many voxels about a voxel."""
    affine = affineOf(volume)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    matrix = np.eye(4)
    matrix[:3, :3] = affine[:3, :3] / spacing
    matrix[:3, 3] = (affine @ [*ijk, 1])[:3]
    node.SetSize(*(np.array(sizes) * spacing))
    node.SetAndObserveObjectToNodeMatrix(toMatrix(matrix))
    return node


def markedIn(volume, voxels):
    label = LabelClass(1, "lesion", (1.0, 0.0, 0.0))
    return segmentation.insertSegmentation(imageOf(voxels, affineOf(volume)), (1,), volume, [label], "1")


def test_an_roi_is_the_box_of_the_voxels_whose_centres_it_holds(volume):
    assert regionOf(roiAt(volume, (10, 15, 6), (5, 7, 3)), volume) == [8, 12, 5, 13, 19, 8]


def test_an_roi_is_found_under_a_parent_transform(volume):
    roi = roiAt(volume, (10, 15, 6), (5, 7, 3))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(toMatrix([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]))
    for node in (volume, roi):
        node.SetAndObserveTransformNodeID(transform.GetID())
    assert regionOf(roi, volume) == [8, 12, 5, 13, 19, 8]


def test_an_roi_that_reaches_out_is_cut_and_one_that_lies_outside_is_refused(volume):
    assert regionOf(roiAt(volume, (0, 0, 0), (5, 7, 3)), volume) == [0, 0, 0, 3, 4, 2]
    with pytest.raises(ExchangeProblem, match="no voxel"):
        regionOf(roiAt(volume, (100, 0, 0), (5, 7, 3)), volume)


def test_a_segmentation_is_a_mask_on_the_volume_s_grid(volume):
    marked = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    marked[3:5, 10:14, 6:9] = 1
    found = regionOf(markedIn(volume, marked), volume)
    assert isinstance(found, Image)
    assert np.array_equal(found.voxels != 0, marked != 0)
    assert np.allclose(found.ijkToRAS, affineOf(volume))


def test_a_label_map_must_lie_on_the_volume_s_grid(volume):
    marked = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    marked[3, 10, 6] = 2
    labels = slicer.util.addVolumeFromArray(
        marked, ijkToRAS=toMatrix(affineOf(volume)), nodeClassName="vtkMRMLLabelMapVolumeNode"
    )
    assert np.array_equal(regionOf(labels, volume).voxels, marked)
    labels.SetOrigin(0, 0, 0)
    with pytest.raises(ExchangeProblem, match="grid"):
        regionOf(labels, volume)


def test_nothing_marked_is_refused(volume):
    empty = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for node, what in ((None, "No region"), (volume, "marks no region"), (markedIn(volume, empty), "empty")):
        with pytest.raises(ExchangeProblem, match=what):
            regionOf(node, volume)
