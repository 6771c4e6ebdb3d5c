"""Volumes and views for tests, made of real MRML."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from CounterfactualMRILib import nifti


def toMatrix(affine):
    """A 4x4 array as vtkMatrix4x4."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(affine[row][column]))
    return matrix


def affineOf(node):
    """The voxel-to-RAS matrix of a volume node as a 4x4 array."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def oblique(spacing=(0.7, 0.8, 2.3), origin=(-50.1234567, 30.0, 20.5)):
    """An oblique anisotropic affine."""
    rotation, _ = np.linalg.qr(np.array([[0.9, 0.2, 0.3], [-0.2, 0.95, 0.05], [-0.3, -0.1, 0.9]]))
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def makeVolume(array=None, affine=None, name="breast"):
    """A scalar volume node with display node; ``array`` has shape (k, j, i)."""
    if array is None:
        k, j, i = np.mgrid[-1:1:12j, -1:1:30j, -1:1:20j]
        array = (1000 * np.exp(-(i**2 + j**2 + k**2))).astype(np.int16)
    affine = oblique() if affine is None else affine
    node = slicer.util.addVolumeFromArray(array, ijkToRAS=toMatrix(affine), name=name)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(700, 350)
    return node


def imageOf(array, affine) -> nifti.Image:
    """An array and its affine as the extension's image."""
    return nifti.Image(np.asarray(array), tuple(tuple(float(value) for value in row) for row in affine))


def niftiBytes(array, affine, folder) -> bytes:
    """An array and its affine as the bytes of a NIfTI file, as the server sends them."""
    path = folder / "answer.nii"
    nifti.write(path, imageOf(array, affine))
    return path.read_bytes()


def unscened(array, affine, nodeClass="vtkMRMLScalarVolumeNode"):
    """A volume node that is in no scene."""
    made = slicer.util.addVolumeFromArray(array, ijkToRAS=toMatrix(affine), nodeClassName=nodeClass)
    node = getattr(slicer, nodeClass)()
    node.SetAndObserveImageData(made.GetImageData())
    node.SetIJKToRASMatrix(toMatrix(affine))
    slicer.mrmlScene.RemoveNode(made.GetDisplayNode()) if made.GetDisplayNode() else None
    slicer.mrmlScene.RemoveNode(made)
    return node


def saveScene(folder) -> str:
    """Save the scene with its volumes; return its path."""
    for index, node in enumerate(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")):
        node.AddDefaultStorageNode(str(folder / f"{index}.nrrd"))
        node.GetStorageNode().WriteData(node)
    path = str(folder / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Commit()
    return path


class Layout:
    """What Slicer's layout manager does when a layout comes up: slice logics for its views, linked."""

    def __init__(self, scene):
        self.layoutLogic = slicer.vtkMRMLLayoutLogic()
        self.layoutLogic.SetMRMLScene(scene)
        self.node = self.layoutLogic.GetLayoutNode()
        self.node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
        self.linkLogic = slicer.vtkMRMLSliceLinkLogic()
        self.linkLogic.SetMRMLScene(scene)
        self.logics = {}
        self._scene = scene
        self._collection = vtk.vtkCollection()
        slicer.app.applicationLogic().SetSliceLogics(self._collection)

    def sliceLogic(self, viewName, size=(256, 256)):
        """The slice logic of a view of the current layout, made if needed."""
        if viewName not in self.logics:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
            logic.SetMRMLScene(self._scene)
            sliceNode = self._scene.GetSingletonNode(viewName, "vtkMRMLSliceNode")
            logic.SetSliceNode(sliceNode)
            sliceNode.SetDimensions(*size, 1)
            self.logics[viewName] = logic
            self._collection.AddItem(logic)
        return self.logics[viewName]

    def close(self):
        """Take the logics out of the scene, in the order in which Slicer ends."""
        slicer.app.applicationLogic().SetSliceLogics(None)
        for logic in (*self.logics.values(), self.linkLogic, self.layoutLogic):
            logic.SetMRMLScene(None)
        self.logics.clear()
