"""How volumes are shown: window, colours and colour bar, found without looking through all voxels on the main thread.

No Qt.
"""

from __future__ import annotations

from typing import Callable

import slicer

_COLORS = 256
#: A scale ends at this share of the absolute values, so that single voxels do not decide it.
_SCALE_QUANTILE = 0.995
#: So many voxels tell where a scale should end.
_SAMPLE = 1_000_000


def showVolume(node, window: float, level: float, colorNodeID: str = "", interpolate: bool = True) -> None:
    """Give a volume of the scene a display node with a fixed window.

    With an automatic one, as `CreateDefaultDisplayNodes` makes it, Slicer would look through all voxels first.
    """
    display = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.UnRegister(None)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(window, level)
    display.SetInterpolate(interpolate)
    display.SetAndObserveColorNodeID(colorNodeID or "vtkMRMLColorTableNodeGrey")
    node.SetAndObserveDisplayNodeID(slicer.mrmlScene.AddNode(display).GetID())


def displayLimit(voxels) -> float:
    """Return the largest absolute value worth showing; never 0. May run in a worker thread."""
    flat = voxels.reshape(-1)
    sizes = abs(flat[:: max(1, flat.size // _SAMPLE)])
    sizes.sort()
    limit = float(sizes[int(_SCALE_QUANTILE * (len(sizes) - 1))]) or float(sizes[-1])
    return limit or 1.0


def displayRange(voxels) -> tuple[float, float]:
    """Return the lowest and highest value worth showing; they differ. May run in a worker thread."""
    flat = voxels.reshape(-1)
    values = flat[:: max(1, flat.size // _SAMPLE)].copy()
    values.sort()
    last = len(values) - 1
    low, high = (float(values[int(share * last)]) for share in (1 - _SCALE_QUANTILE, _SCALE_QUANTILE))
    return low, high if high > low else low + 1.0


def colorTable(name: str, colorAt: Callable[[float], tuple[float, float, float]]):
    """Return the scene's colour table of that name, made if needed.

    Args:
        name: Also its singleton tag: there is one of it in a scene.
        colorAt: Red, green and blue, 0 to 1, at a place from 0 to 1 along the table.
    """
    node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetName(name)
    node.SetSingletonTag(name)
    node.SetTypeToUser()
    node.SetHideFromEditors(True)
    node.SetNumberOfColors(_COLORS)
    for index in range(_COLORS):
        place = index / (_COLORS - 1)
        node.SetColor(index, f"{place:.2f}", *colorAt(place), 1.0)
    return slicer.mrmlScene.AddNode(node)


def addColorBar(node, title: str, limit: float) -> None:
    """Add a colour bar to a volume that is shown.

    Args:
        node: The volume.
        title: What its values are.
        limit: Largest value shown; decides how many digits the numbers get.
    """
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node.GetDisplayNode())
    if legend is not None:
        legend.SetTitleText(title)
        legend.SetLabelFormat("%.0f" if limit >= 10 else "%.3g")
