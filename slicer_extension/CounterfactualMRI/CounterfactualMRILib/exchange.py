"""A volume of the scene as a file for the server, and the server's file as a volume. No Qt.

What leaves: voxels and their geometry, under a random name. Node name, node attributes (Slicer writes
them into NRRD headers, DICOM.instanceUIDs too) and everything else in the scene stay.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

import slicer
import vtk

from CounterfactualMRILib.problems import Problem

#: Largest distance between where a voxel lies in the source and in the result, in millimetres.
TOLERANCE_MM = 1e-3


class ExchangeProblem(Problem):
    """A volume cannot be sent, or the server's result cannot be taken over."""


class TransferFolder:
    """A private temporary folder that `remove` deletes with all that is in it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="CounterfactualMRI-"))

    def remove(self) -> None:
        """Delete the folder; a second call does nothing."""
        shutil.rmtree(self.path, ignore_errors=True)


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


def exportVolume(volumeNode, folder: Path) -> Path:
    """Write voxels and geometry of a volume as NRRD under a random name.

    The parent transform is not applied: the result gets the same one.

    Raises:
        ExchangeProblem: The volume cannot be sent, or the file cannot be written.
    """
    requireSendable(volumeNode)
    anonymous = slicer.vtkMRMLScalarVolumeNode()
    anonymous.SetAndObserveImageData(volumeNode.GetImageData())
    anonymous.CopyOrientation(volumeNode)
    path = folder / f"{uuid.uuid4().hex}.nrrd"
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(anonymous) or not path.exists():
        raise ExchangeProblem("The volume could not be written for sending.", f"Is the disk of {folder.parent} full?")
    return path


def readResult(path: Path | None, volumeNode, nodeClass: str = "vtkMRMLScalarVolumeNode"):
    """Read the server's image into a node that is not in any scene yet, lying exactly on the source's grid.

    Args:
        path: NRRD file.
        volumeNode: The source.
        nodeClass: Class of the node to make.

    Raises:
        ExchangeProblem: There is no image, it is unreadable, or it does not lie on the source's grid.
    """
    if path is None:
        raise ExchangeProblem("The server returned no image.", "Look at the terminal where `cfmri serve` runs.")
    node = getattr(slicer, nodeClass)()
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node) or node.GetImageData() is None:
        raise ExchangeProblem(
            "The server's image cannot be read.", "Repeat; if it stays, report it with the server's log."
        )
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
