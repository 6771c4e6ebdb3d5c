"""Original and counterfactual side by side, and what changed: linked slice views, one window and level. No Qt."""

from __future__ import annotations

import slicer
import vtk

#: Numbers of our layouts: two views, three, and two that do not say what they show. Slicer's own are below 1000, other
#: extensions use small numbers above.
LAYOUT_ID, LAYOUT_WITH_DIFFERENCE_ID, BLINDED_LAYOUT_ID = 47110, 47111, 47112
ORIGINAL_VIEW, COUNTERFACTUAL_VIEW, DIFFERENCE_VIEW = "CFOriginal", "CFCounterfactual", "CFDifference"
LEFT_VIEW, RIGHT_VIEW = "CFLeft", "CFRight"
_VIEW_GROUP = 71
#: Of a map over a volume: the anatomy stays to be seen.
_OVER_OPACITY = 0.75
_UNCERTAINTY_OPACITY = 0.5


class Comparison:
    """The side-by-side layout: shown for one pair of volumes at a time, and undone by `restore`."""

    def __init__(self) -> None:
        self._earlierLayout: int | None = None
        self._displays: list = []
        self._tags: list[int] = []
        self._isCopying = False

    @property
    def isShown(self) -> bool:
        """Whether our layout is the current one."""
        layoutNode = _layoutNode()
        return layoutNode is not None and layoutNode.GetViewArrangement() in _VIEWS

    def show(self, original, counterfactual, difference=None) -> None:
        """Show two volumes in linked slice views, in the plane in which they were acquired.

        Args:
            original: The source.
            counterfactual: What was made of it.
            difference: Signed difference; shown over the source in a third view.
        """
        shown = [(ORIGINAL_VIEW, original, None), (COUNTERFACTUAL_VIEW, counterfactual, None)]
        if difference is not None:
            shown.append((DIFFERENCE_VIEW, original, difference))
        self._arrange(LAYOUT_ID if difference is None else LAYOUT_WITH_DIFFERENCE_ID, shown)
        self._linkWindowLevel(original, counterfactual)

    def showBlinded(self, left, right) -> None:
        """Show two volumes in linked slice views whose labels do not say what they are."""
        self._arrange(BLINDED_LAYOUT_ID, [(LEFT_VIEW, left, None), (RIGHT_VIEW, right, None)])
        self._linkWindowLevel(left, right)

    def _arrange(self, layout: int, shown) -> None:
        layoutNode = _layoutNode()
        if layoutNode is None:
            return
        if not layoutNode.IsLayoutDescription(layout):
            layoutNode.AddLayoutDescription(layout, _layoutDescription(_VIEWS[layout]))
        if not self.isShown:
            self._earlierLayout = layoutNode.GetViewArrangement()
        layoutNode.SetViewArrangement(layout)
        for viewName, volume, over in shown:
            _showInView(viewName, volume, over)

    def fade(self, original, share: float) -> None:
        """Blend the source over the counterfactual, to see by moving to and fro what changes.

        Args:
            original: The source.
            share: From 0, the counterfactual alone, to 1, the source alone.
        """
        if self.isShown:
            composite = _compositeNode(COUNTERFACTUAL_VIEW)
            composite.SetForegroundVolumeID(original.GetID() if share > 0 else None)
            composite.SetForegroundOpacity(share)

    def overlay(self, uncertainty) -> None:
        """Show a map half transparent over the counterfactual, or none; it takes the place of the source's fade."""
        if self.isShown:
            composite = _compositeNode(COUNTERFACTUAL_VIEW)
            composite.SetForegroundVolumeID(None if uncertainty is None else uncertainty.GetID())
            composite.SetForegroundOpacity(0.0 if uncertainty is None else _UNCERTAINTY_OPACITY)

    def restore(self) -> None:
        """Return to the layout that was there before."""
        self._unlinkWindowLevel()
        layoutNode = _layoutNode()
        if self._earlierLayout is not None and self.isShown:
            layoutNode.SetViewArrangement(self._earlierLayout)
        self._earlierLayout = None

    def _linkWindowLevel(self, original, counterfactual) -> None:
        self._unlinkWindowLevel()
        self._displays = [original.GetDisplayNode(), counterfactual.GetDisplayNode()]
        if None in self._displays:
            self._displays = []
            return
        self._copyWindowLevel(*self._displays)
        for changed, other in (self._displays, self._displays[::-1]):
            tag = changed.AddObserver(
                vtk.vtkCommand.ModifiedEvent, lambda *_, a=changed, b=other: self._copyWindowLevel(a, b)
            )
            self._tags.append(tag)

    def _unlinkWindowLevel(self) -> None:
        for display, tag in zip(self._displays, self._tags):
            display.RemoveObserver(tag)
        self._displays, self._tags = [], []

    def _copyWindowLevel(self, changed, other) -> None:
        if self._isCopying:
            return
        self._isCopying = True
        try:
            other.SetAutoWindowLevel(False)
            other.SetWindowLevel(changed.GetWindow(), changed.GetLevel())
        finally:
            self._isCopying = False


def acquisitionOrientation(volume) -> str:
    """Return the slice orientation in which a volume was acquired: Axial, Coronal or Sagittal."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    normal = [abs(matrix.GetElement(axis, 2)) / volume.GetSpacing()[2] for axis in range(3)]
    return ("Sagittal", "Coronal", "Axial")[normal.index(max(normal))]


def sliceInView(volume) -> int | None:
    """Return the number of the volume's slice that the first view of its plane of acquisition shows.

    Counted along its third axis; ``None`` if no view shows that plane, or it shows it beside the volume.
    """
    orientation = acquisitionOrientation(volume)
    names = [ORIGINAL_VIEW, *(node.GetLayoutName() for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"))]
    for name in names:
        node = slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode")
        if node is not None and node.GetOrientation() == orientation:
            return _sliceAt(volume, [node.GetSliceToRAS().GetElement(row, 3) for row in range(3)])
    return None


def _sliceAt(volume, ras: list[float]) -> int | None:
    toVolume = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), toVolume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(matrix)
    index = round(matrix.MultiplyPoint([*toVolume.TransformPoint(ras), 1.0])[2])
    return index if 0 <= index < volume.GetImageData().GetDimensions()[2] else None


def _showInView(viewName: str, volume, over=None) -> None:
    composite = _compositeNode(viewName)
    composite.SetLinkedControl(True)
    composite.SetHotLinkedControl(True)
    composite.SetBackgroundVolumeID(volume.GetID())
    composite.SetForegroundVolumeID(None if over is None else over.GetID())
    composite.SetForegroundOpacity(0.0 if over is None else _OVER_OPACITY)
    composite.SetLabelVolumeID(None)
    sliceNode = slicer.mrmlScene.GetSingletonNode(viewName, "vtkMRMLSliceNode")
    if sliceNode is not None:
        sliceNode.SetOrientation(acquisitionOrientation(volume))
    logic = slicer.app.applicationLogic().GetSliceLogicByLayoutName(viewName)
    if logic is not None:
        logic.FitSliceToBackground()
        logic.SnapSliceOffsetToIJK()


def _compositeNode(viewName: str):
    """Return the view's composite node; its slice logic takes over ours if it does not exist yet."""
    scene = slicer.mrmlScene
    node = scene.GetSingletonNode(viewName, "vtkMRMLSliceCompositeNode")
    if node is None:
        node = slicer.vtkMRMLSliceCompositeNode()
        node.SetSingletonTag(viewName)
        node.SetLayoutName(viewName)
        node = scene.AddNode(node)
    return node


def _layoutNode():
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


#: Label and colour of each view.
_LOOKS = {
    ORIGINAL_VIEW: ("O", "#4A90A4"),
    COUNTERFACTUAL_VIEW: ("S", "#D68C45"),
    DIFFERENCE_VIEW: ("D", "#8E6C8A"),
    LEFT_VIEW: ("L", "#7A7A7A"),
    RIGHT_VIEW: ("R", "#7A7A7A"),
}
_VIEWS = {
    LAYOUT_ID: (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW),
    LAYOUT_WITH_DIFFERENCE_ID: (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW, DIFFERENCE_VIEW),
    BLINDED_LAYOUT_ID: (LEFT_VIEW, RIGHT_VIEW),
}


def _layoutDescription(names) -> str:
    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{_LOOKS[name][0]}</property>'
        f'<property name="viewcolor" action="default">{_LOOKS[name][1]}</property>'
        f'<property name="viewgroup" action="default">{_VIEW_GROUP}</property></view></item>'
        for name in names
    )
    return f'<layout type="horizontal" split="true">{views}</layout>'
