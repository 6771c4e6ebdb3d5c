"""What a counterfactual changed: a signed map with a symmetric scale and colour bar. No Qt."""

from __future__ import annotations

import slicer
import vtk

from CounterfactualMRILib import results

#: Colour table of signed maps: blue is darker than the source, red is brighter, no change is white.
COLOR_NODE = "CounterfactualMRI difference"
_COLORS = 256
#: The scale ends at this share of the absolute differences, so that single voxels do not decide it.
_SCALE_QUANTILE = 0.995


def insertDifference(counterfactual):
    """Add the difference of a counterfactual and its source to the scene, or return the one that is there.

    Args:
        counterfactual: Volume made by this module; its source must be in the scene.

    Returns:
        The volume node: counterfactual minus source in the source's units, on the counterfactual's grid.

    Raises:
        ExchangeProblem: The source is gone or no longer lies on the counterfactual's grid.
    """
    present = counterfactual.GetNodeReference(results.ATTRIBUTE + "difference")
    if present is not None:
        return present
    voxels = results.sourceVoxels(counterfactual)
    difference = slicer.util.arrayFromVolume(counterfactual).astype("float32") - voxels.astype("float32")
    matrix = vtk.vtkMatrix4x4()
    counterfactual.GetIJKToRASMatrix(matrix)
    name = slicer.mrmlScene.GetUniqueNameByString(f"{results.SYNTHETIC} difference of {counterfactual.GetName()}")
    node = slicer.util.addVolumeFromArray(difference, ijkToRAS=matrix, name=name)
    node.SetAttribute(results.ATTRIBUTE + "Difference", "true")
    node.SetAndObserveTransformNodeID(counterfactual.GetTransformNodeID())
    counterfactual.SetNodeReferenceID(results.ATTRIBUTE + "difference", node.GetID())
    _showSigned(node, symmetricLimit(difference))
    results.placeBeside(node, counterfactual)
    return node


def symmetricLimit(difference) -> float:
    """Return the largest difference worth showing; the scale reaches from minus to plus this value."""
    sizes = abs(difference).ravel()
    sizes.sort()
    limit = float(sizes[int(_SCALE_QUANTILE * (len(sizes) - 1))]) or float(sizes[-1])
    return limit or 1.0


def _showSigned(node, limit: float) -> None:
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(_colorNode().GetID())
    display.SetInterpolate(False)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(2 * limit, 0.0)
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(display)
    if legend is not None:
        legend.SetTitleText("difference")
        legend.SetLabelFormat("%.0f" if limit >= 10 else "%.3g")


def _colorNode():
    node = slicer.mrmlScene.GetSingletonNode(COLOR_NODE, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(COLOR_NODE)
    node.SetSingletonTag(COLOR_NODE)
    node.SetTypeToUser()
    node.SetHideFromEditors(True)
    node.SetNumberOfColors(_COLORS)
    for index in range(_COLORS):
        share = 2 * index / (_COLORS - 1) - 1
        size = abs(share)
        red, blue = (1.0, 1 - size) if share > 0 else (1 - size, 1.0)
        node.SetColor(index, f"{share:+.2f}", red, 1 - size, blue, 1.0)
    return slicer.mrmlScene.AddNode(node)
