"""A region of a volume that somebody drew: a segmentation or label map as a mask, an ROI as a box of voxels. No Qt."""

from __future__ import annotations

import math

import slicer
import vtk

from CounterfactualMRILib import exchange, segmentation
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.nifti import Image

#: First and, excluded, last voxel along i, j and k.
Box = list


def regionOf(node, volumeNode) -> Image | Box:
    """Return what a node of the scene marks in a volume.

    Args:
        node: Segmentation (all its segments), label map on the volume's grid (all but 0), or markups ROI. An ROI that
            is oblique to the volume stands for the smallest box of voxels around it.
        volumeNode: The volume.

    Returns:
        Mask for a worker thread to send, not 0 where marked; or ``[i0, j0, k0, i1, j1, k1]``.

    Raises:
        ExchangeProblem: Nothing is chosen, nothing of the volume is marked, or it cannot be put on the volume's grid.
    """
    if node is None:
        raise ExchangeProblem("No region is chosen.", "Draw a segment or place an ROI, and choose it.")
    if node.IsA("vtkMRMLMarkupsROINode"):
        return _boxOf(node, volumeNode)
    if node.IsA("vtkMRMLSegmentationNode"):
        mask, _ = segmentation.segmentNumbers(node, volumeNode)
    elif node.IsA("vtkMRMLLabelMapVolumeNode"):
        mask = _onGrid(node, volumeNode)
    else:
        raise ExchangeProblem("The chosen node marks no region.", "Choose a segmentation, a label map or an ROI.")
    if not mask.voxels.any():
        raise ExchangeProblem("The chosen region is empty.", "Paint it, or choose another one.")
    return mask


def _onGrid(labelmap, volumeNode) -> Image:
    voxels = slicer.util.arrayFromVolume(labelmap) if labelmap.GetImageData() is not None else None
    if voxels is None or voxels.shape != slicer.util.arrayFromVolume(volumeNode).shape:
        raise ExchangeProblem("The label map does not lie on the volume's grid.", "Make it from this volume.")
    exchange.gridOfResult(labelmap, volumeNode)
    return Image(voxels, exchange.matrixOf(volumeNode))


def _boxOf(roi, volumeNode) -> Box:
    toVoxels = _worldToVoxels(volumeNode)
    vtk.vtkMatrix4x4.Multiply4x4(toVoxels, roi.GetObjectToWorldMatrix(), toVoxels)
    sides = [side / 2 for side in roi.GetSize()]
    corners = [
        toVoxels.MultiplyPoint((x * sides[0], y * sides[1], z * sides[2], 1.0))
        for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)
    ]  # fmt: skip
    first, last = [], []
    for axis, size in enumerate(volumeNode.GetImageData().GetDimensions()):
        # A voxel belongs to the box when its centre lies in it.
        first.append(max(0, math.ceil(min(corner[axis] for corner in corners))))
        last.append(min(size, math.floor(max(corner[axis] for corner in corners)) + 1))
    if any(end <= begin for begin, end in zip(first, last)):
        raise ExchangeProblem("The ROI holds no voxel of the volume.", "Move it onto the volume, or make it larger.")
    return first + last


def _worldToVoxels(volumeNode):
    """Return the matrix from world coordinates to voxel indices, through the volume's parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    parent = volumeNode.GetParentTransformNode()
    if parent is not None and not parent.GetMatrixTransformFromWorld(matrix):
        raise ExchangeProblem("The volume lies under a non-linear transform.", "Harden the transform first.")
    rasToVoxels = vtk.vtkMatrix4x4()
    volumeNode.GetRASToIJKMatrix(rasToVoxels)
    vtk.vtkMatrix4x4.Multiply4x4(rasToVoxels, matrix, matrix)
    return matrix
