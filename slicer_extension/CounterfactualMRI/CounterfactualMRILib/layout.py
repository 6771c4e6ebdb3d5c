"""Original and counterfactual side by side: linked slice views, one window and level. No Qt."""

from __future__ import annotations

import slicer
import vtk

#: Number of our layout; Slicer's own are below 1000, other extensions use small numbers above.
LAYOUT_ID = 47110
ORIGINAL_VIEW, COUNTERFACTUAL_VIEW = "CFOriginal", "CFCounterfactual"
_VIEW_GROUP = 71


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
        return layoutNode is not None and layoutNode.GetViewArrangement() == LAYOUT_ID

    def show(self, original, counterfactual) -> None:
        """Show two volumes in linked slice views, in the plane in which they were acquired."""
        layoutNode = _layoutNode()
        if layoutNode is None:
            return
        if not layoutNode.IsLayoutDescription(LAYOUT_ID):
            layoutNode.AddLayoutDescription(LAYOUT_ID, _layoutDescription())
        if layoutNode.GetViewArrangement() != LAYOUT_ID:
            self._earlierLayout = layoutNode.GetViewArrangement()
            layoutNode.SetViewArrangement(LAYOUT_ID)
        for viewName, volume in ((ORIGINAL_VIEW, original), (COUNTERFACTUAL_VIEW, counterfactual)):
            _showInView(viewName, volume)
        self._linkWindowLevel(original, counterfactual)

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


def _showInView(viewName: str, volume) -> None:
    composite = _compositeNode(viewName)
    composite.SetLinkedControl(True)
    composite.SetHotLinkedControl(True)
    composite.SetBackgroundVolumeID(volume.GetID())
    composite.SetForegroundVolumeID(None)
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


def _layoutDescription() -> str:
    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{label}</property>'
        f'<property name="viewcolor" action="default">{color}</property>'
        f'<property name="viewgroup" action="default">{_VIEW_GROUP}</property></view></item>'
        for tag, label, color in ((ORIGINAL_VIEW, "O", "#4A90A4"), (COUNTERFACTUAL_VIEW, "S", "#D68C45"))
    )
    return f'<layout type="horizontal" split="true">{views}</layout>'
