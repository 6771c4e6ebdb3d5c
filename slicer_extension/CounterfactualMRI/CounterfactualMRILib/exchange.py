"""A volume of the scene as a file for the server, and the server's file as a volume. No Qt.

What leaves: voxels and their geometry, under a random name. Node name, node attributes (Slicer would
write DICOM.instanceUIDs into a file) and everything else in the scene stay. Files are read and written by
worker threads (see `nifti`); what happens here on the main thread takes as long for a large volume as for a
small one.
"""

from __future__ import annotations

import slicer
import vtk

from CounterfactualMRILib.nifti import Image, Matrix
from CounterfactualMRILib.problems import Problem

#: Largest distance between where a voxel lies in the source and in the result, in millimetres.
TOLERANCE_MM = 1e-3


class ExchangeProblem(Problem):
    """A volume cannot be sent, or the server's result cannot be taken over."""


def requireSendable(volumeNode) -> None:
    """Refuse what is not a 3D scalar volume in the scene.

    Raises:
        ExchangeProblem: No volume, no voxels, a label map, several components, or a non-linear parent transform.
    """
    if volumeNode is None:
        raise ExchangeProblem("No volume is chosen.", "Choose the MR volume to work on.")
    if not volumeNode.IsA("vtkMRMLScalarVolumeNode") or volumeNode.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ExchangeProblem("The chosen node is not an MR volume.", "Choose a scalar volume.")
    image = volumeNode.GetImageData()
    if image is None or min(image.GetDimensions()) < 1:
        raise ExchangeProblem("The chosen volume holds no voxels.", "Load it again.")
    if image.GetNumberOfScalarComponents() != 1:
        raise ExchangeProblem(
            f"The chosen volume has {image.GetNumberOfScalarComponents()} values per voxel.",
            "Choose a grey-scale volume.",
        )


def snapshotOf(volumeNode) -> Image:
    """Return voxels and geometry of a volume for a worker thread to send; nothing else of it leaves.

    The voxels are not copied. They stay what they are while they are held here: VTK does not use an array
    again that somebody else refers to. The parent transform is not applied: the result gets the same one.

    Raises:
        ExchangeProblem: The volume cannot be sent.
    """
    requireSendable(volumeNode)
    return Image(slicer.util.arrayFromVolume(volumeNode), matrixOf(volumeNode))


def nodeOf(image: Image, nodeClass: str = "vtkMRMLScalarVolumeNode"):
    """Return a volume node that is not in any scene yet, around an image's voxels; they are not copied.

    Args:
        image: From a worker thread.
        nodeClass: Class of the node to make.
    """
    node = getattr(slicer, nodeClass)()
    node.SetAndObserveImageData(imageDataOf(image))
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([value for row in image.ijkToRAS for value in row])
    node.SetIJKToRASMatrix(matrix)
    return node


def imageDataOf(image: Image, imageData=None):
    """Put an image's voxels into ``imageData``, or into a new one, without copying them."""
    from vtk.util.numpy_support import numpy_to_vtk  # imports numpy

    imageData = imageData or vtk.vtkImageData()
    imageData.SetDimensions(image.voxels.shape[::-1])
    imageData.GetPointData().SetScalars(numpy_to_vtk(image.voxels.reshape(-1), deep=False))
    return imageData


def resultNode(image: Image | None, volumeNode, nodeClass: str = "vtkMRMLScalarVolumeNode"):
    """Return the server's image as a node that is not in any scene yet, lying exactly on the source's grid.

    Args:
        image: What the server sent.
        volumeNode: The source.
        nodeClass: Class of the node to make.

    Raises:
        ExchangeProblem: There is no image, or it does not lie on the source's grid.
    """
    if image is None:
        raise ExchangeProblem("The server returned no image.", "Look at the terminal where `cfmri serve` runs.")
    node = nodeOf(image, nodeClass)
    node.SetIJKToRASMatrix(gridOfResult(node, volumeNode))
    return node


def gridOfResult(result, source):
    """Return the result's voxel-to-RAS matrix, taken from the source's grid that it must lie on.

    The result may be a slab: the source's grid cut along an axis. Checked at all eight corners of the result.

    Raises:
        ExchangeProblem: A corner lies more than `TOLERANCE_MM` off the source's grid, or outside it.
    """
    sourceToRAS, resultToRAS = _ijkToRAS(source), _ijkToRAS(result)
    rasToSource = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(sourceToRAS, rasToSource)
    origin = rasToSource.MultiplyPoint(resultToRAS.MultiplyPoint((0, 0, 0, 1)))
    first = [round(coordinate) for coordinate in origin[:3]]
    sizes, sourceSizes = result.GetImageData().GetDimensions(), source.GetImageData().GetDimensions()
    if any(start < 0 or start + size > limit for start, size, limit in zip(first, sizes, sourceSizes)):
        raise _offGrid(f"{_shape(sizes)} voxels from voxel {_shape(first)} on, in a source of {_shape(sourceSizes)}")
    expectedToRAS = vtk.vtkMatrix4x4()
    shift = vtk.vtkMatrix4x4()
    for axis in range(3):
        shift.SetElement(axis, 3, first[axis])
    vtk.vtkMatrix4x4.Multiply4x4(sourceToRAS, shift, expectedToRAS)
    distanceMm = max(_distanceMm(expectedToRAS, resultToRAS, corner) for corner in _corners(sizes))
    if not distanceMm <= TOLERANCE_MM:
        raise _offGrid(f"it is {distanceMm:.3g} mm off")
    return expectedToRAS


def matrixOf(node) -> Matrix:
    """Return the rows of a volume's voxel-to-RAS matrix."""
    matrix = _ijkToRAS(node)
    return tuple(tuple(matrix.GetElement(row, column) for column in range(4)) for row in range(4))


def _offGrid(how: str) -> ExchangeProblem:
    return ExchangeProblem(
        f"The server's image does not lie on the grid of the source ({how}) and was not loaded.",
        "If the volume's axes are sheared (gantry tilt), resample it first (Resample Scalar Volume).",
    )


def _ijkToRAS(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def _corners(sizes) -> list[tuple[int, int, int]]:
    i, j, k = (size - 1 for size in sizes)
    return [(a, b, c) for a in (0, i) for b in (0, j) for c in (0, k)]


def _distanceMm(first, second, corner) -> float:
    here, there = first.MultiplyPoint((*corner, 1.0)), second.MultiplyPoint((*corner, 1.0))
    return sum((a - b) ** 2 for a, b in zip(here[:3], there[:3])) ** 0.5


def _shape(sizes) -> str:
    return " x ".join(str(size) for size in sizes)
