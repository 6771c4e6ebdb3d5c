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
        """Whether original and counterfactual are shown side by side; not while they are read blinded."""
        return _arrangement() in (LAYOUT_ID, LAYOUT_WITH_DIFFERENCE_ID)

    @property
    def isBlinded(self) -> bool:
        """Whether the layout for reading blinded is the current one."""
        return _arrangement() == BLINDED_LAYOUT_ID

    def show(self, original, counterfactual, difference=None) -> None:
        """Show two volumes in linked slice views, in the plane in which they were acquired.

        The slice is the one that was in view, if the original was shown before and the counterfactual has that slice;
        else the middle one of the counterfactual.

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
        registerLayouts()
        if _arrangement() not in _VIEWS:
            self._earlierLayout = layoutNode.GetViewArrangement()
        (firstView, original, _), (_, made, _) = shown[:2]
        before = _centreOfView(firstView, original)
        layoutNode.SetViewArrangement(layout)
        for viewName, volume, over in shown:
            _showInView(viewName, volume, over)
        _showOneSlice([viewName for viewName, *_ in shown], original, made, before)

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
        """Return to the layout that was there before; to Slicer's usual one if a scene was loaded into ours."""
        self._unlinkWindowLevel()
        if _arrangement() in _VIEWS:
            usual = slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
            _layoutNode().SetViewArrangement(usual if self._earlierLayout is None else self._earlierLayout)
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


def registerLayouts() -> None:
    """Tell Slicer our layouts; without that it cannot show a scene that was saved in one of them."""
    layoutNode = _layoutNode()
    for layout, names in _VIEWS.items():
        if layoutNode is not None and not layoutNode.IsLayoutDescription(layout):
            layoutNode.AddLayoutDescription(layout, _layoutDescription(names))


def acquisitionOrientation(volume) -> str:
    """Return the slice orientation in which a volume was acquired: Axial, Coronal or Sagittal."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    normal = [abs(matrix.GetElement(axis, 2)) / volume.GetSpacing()[2] for axis in range(3)]
    return ("Sagittal", "Coronal", "Axial")[normal.index(max(normal))]


def sliceInView(volume) -> int | None:
    """Return the number of the volume's slice that the first view of its plane of acquisition shows.

    Counted along its third axis; ``None`` if no view lies in that plane or near it, or it shows it beside the volume.
    While the comparison is shown its views count, else all others.
    """
    shown = _VIEWS.get(_arrangement(), ())
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        name = node.GetLayoutName()
        if name not in shown and (shown or name in _LOOKS):
            continue
        centre, normal = _planeOf(node)
        here = _voxelAt(volume, centre)
        ahead = _voxelAt(volume, [place + step for place, step in zip(centre, normal)])
        steps = [abs(b - a) * size for a, b, size in zip(here, ahead, volume.GetSpacing())]
        if steps.index(max(steps)) == 2:
            index = round(here[2])
            return index if 0 <= index < volume.GetImageData().GetDimensions()[2] else None
    return None


def showInSliceViews(volume) -> None:
    """Show a volume in the slice views, fitted, as Slicer does with one that was loaded from a file."""
    logic = slicer.app.applicationLogic()
    logic.GetSelectionNode().SetActiveVolumeID(volume.GetID())
    logic.PropagateVolumeSelection()


def _planeOf(sliceNode) -> tuple[list[float], list[float]]:
    """Return centre and normal of a slice view, in world coordinates."""
    matrix = sliceNode.GetSliceToRAS()
    return [matrix.GetElement(row, 3) for row in range(3)], [matrix.GetElement(row, 2) for row in range(3)]


def _voxelAt(volume, ras: list[float]) -> tuple[float, ...]:
    toVolume = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), toVolume)
    matrix = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(matrix)
    return matrix.MultiplyPoint([*toVolume.TransformPoint(ras), 1.0])[:3]


def _centreOfView(viewName: str, volume) -> list[float] | None:
    """Return the centre of a slice view if it shows a volume, in world coordinates."""
    composite = slicer.mrmlScene.GetSingletonNode(viewName, "vtkMRMLSliceCompositeNode")
    sliceNode = slicer.mrmlScene.GetSingletonNode(viewName, "vtkMRMLSliceNode")
    if composite is None or sliceNode is None or composite.GetBackgroundVolumeID() != volume.GetID():
        return None
    return _planeOf(sliceNode)[0]


def _showOneSlice(viewNames: list[str], original, made, before: list[float] | None) -> None:
    """Fit all views alike: one field, one slice, so that the same anatomy lies in the same place.

    Args:
        viewNames: Views of one orientation.
        original: Volume that decides the field.
        made: Volume whose slices there are to see; it may be a slab of the original.
        before: Point of the slice that is kept if the made volume has it.
    """
    found = [slicer.app.applicationLogic().GetSliceLogicByLayoutName(name) for name in viewNames]
    logics = [logic for logic in found if logic is not None]
    for logic in logics:
        width, height, _ = logic.GetSliceNode().GetDimensions()
        logic.FitSliceToVolume(original, width, height)
    offset = _offsetIn(logics[0], made, before) if logics else 0.0
    for logic in logics:
        logic.SetSliceOffset(offset)


def _offsetIn(logic, made, before: list[float] | None) -> float:
    """Return the offset, in millimetres, of the slice to show; it moves the logic's own view."""
    bounds = [0.0] * 6
    logic.GetVolumeSliceBounds(made, bounds)
    first, last = bounds[4:]
    if before is not None:
        logic.GetSliceNode().JumpSliceByOffsetting(*before)
        if first <= logic.GetSliceOffset() <= last:
            return logic.GetSliceOffset()
    logic.SetSliceOffset((first + last) / 2)
    logic.SnapSliceOffsetToIJK()
    return logic.GetSliceOffset()


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


def _arrangement() -> int | None:
    """Return the number of the current layout, ``None`` without views."""
    node = _layoutNode()
    return node.GetViewArrangement() if node is not None else None


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
