"""Tissue labels: from the server as a segmentation, and a corrected segmentation as labels for the server. No Qt."""

from __future__ import annotations

from typing import Any, Sequence

import slicer
import vtk

from CounterfactualMRILib import exchange, results
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.nifti import Image
from CounterfactualMRILib.schema import LabelClass

_BINARY_LABELMAP = "Binary labelmap"


def insertSegmentation(image, values: Sequence[int], source, labels: Sequence[LabelClass], version: str):
    """Add tissue labels to the scene as a segmentation with the server's names, colours and terminology.

    All segments share the server's label map, as Slicer's own importer leaves them; nothing is copied.

    Args:
        image: Label map from the server.
        values: Those that occur in it, without 0.
        source: The volume that was segmented.
        labels: What each value means.
        version: Version of the server.

    Returns:
        The segmentation node.

    Raises:
        ExchangeProblem: The labels do not lie on the source's grid.
    """
    labelmap = exchange.resultNode(image, source, "vtkMRMLLabelMapVolumeNode")
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GetUniqueNameByString(f"{source.GetName()} tissue"))
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(labelmap)
    shared = slicer.vtkOrientedImageData()
    shared.ShallowCopy(labelmap.GetImageData())
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetIJKToRASMatrix(matrix)
    shared.SetGeometryFromImageToWorldMatrix(matrix)
    for value in values:
        segment = slicer.vtkSegment()
        segment.SetLabelValue(value)
        _nameSegment(segment, value, labels)
        segment.AddRepresentation(_BINARY_LABELMAP, shared)
        node.GetSegmentation().AddSegment(segment)
    node.SetNodeReferenceID(results.SOURCE_ROLE, source.GetID())
    node.SetAttribute(results.ATTRIBUTE + "ServerVersion", version)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    results.placeInFolder(node, source)
    return node


def sourceOf(segmentation):
    """Return the volume that was segmented, as this module or the Segment Editor noted it; ``None`` if unknown."""
    source = results.sourceOf(segmentation)
    return source or segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())


def segmentationOf(source):
    """Return the newest segmentation of a volume in the scene, ``None`` if there is none."""
    nodes = [] if source is None else slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return next((node for node in reversed(nodes) if sourceOf(node) is source), None)


def requireOf(segmentation, source) -> None:
    """Refuse the segmentation of another volume.

    Raises:
        ExchangeProblem: It was made of another volume.
    """
    other = sourceOf(segmentation) if segmentation is not None else None
    if other is not None and other is not source and not other.IsA("vtkMRMLLabelMapVolumeNode"):
        raise ExchangeProblem(
            f"'{segmentation.GetName()}' is the segmentation of another volume, '{other.GetName()}'.",
            f"Choose the segmentation of '{source.GetName()}', or segment it first.",
        )


def segmentNumbers(segmentation, source) -> tuple[Image, list[str]]:
    """Put a segmentation on its source's grid, for a worker thread to send.

    Args:
        segmentation: What somebody corrected.
        source: The volume that was segmented.

    Returns:
        Number of the segment at each voxel, from 1, 0 for none; and the name of each segment.

    Raises:
        ExchangeProblem: There is no segment, or it cannot be put on that grid.
    """
    segments = segmentation.GetSegmentation() if segmentation is not None else None
    if segments is None or segments.GetNumberOfSegments() == 0:
        raise ExchangeProblem("There is no segment to submit.", "Segment the volume first.")
    ids = vtk.vtkStringArray()
    for number in range(segments.GetNumberOfSegments()):
        ids.InsertNextValue(segments.GetNthSegmentID(number))
    names = [segments.GetNthSegment(number).GetName().strip() for number in range(segments.GetNumberOfSegments())]
    return _exported(segmentation, ids, source), names


def labelImage(numbers: Image, names: Sequence[str], labels: Sequence[LabelClass]) -> Image:
    """Return the server's labels in place of segment numbers, uint8. Meant for a worker thread.

    Raises:
        ExchangeProblem: A segment has a name that the server does not know, or no voxel has a label.
    """
    import numpy as np

    values = {label.name.casefold(): label.value for label in labels}
    unknown = [name for name in names if name.casefold() not in values]
    if unknown:
        known = ", ".join(label.name for label in labels)
        hint = f"Rename or remove the segment. Known: {known}."
        raise ExchangeProblem(f"The server has no label '{unknown[0]}'.", hint)
    table = np.array([0, *(values[name.casefold()] for name in names)], np.uint8)
    if not numbers.voxels.any():
        raise ExchangeProblem("The segmentation marks no voxel of this volume.", "Choose the segmentation of this one.")
    return Image(table[numbers.voxels], numbers.ijkToRAS)


def valuesIn(image: Image) -> list[int]:
    """Return the labels that occur in an image, without 0. Meant for a worker thread."""
    import numpy as np

    return [value for value in np.flatnonzero(np.bincount(image.voxels.reshape(-1))).tolist() if value]


def _exported(segmentation, ids, source) -> Image:
    scene = slicer.mrmlScene
    labelmap = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    labelmap.SetHideFromEditors(True)
    try:
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if not logic.ExportSegmentsToLabelmapNode(segmentation, ids, labelmap, source):
            raise ExchangeProblem("The segmentation could not be put on the volume's grid.", "Do the two overlap?")
        voxels = slicer.util.arrayFromVolume(labelmap)
        if voxels.shape != slicer.util.arrayFromVolume(source).shape:
            raise ExchangeProblem("The segmentation does not lie on the volume's grid.", "Segment this volume.")
        return Image(voxels, exchange.matrixOf(source))
    finally:
        colors = labelmap.GetDisplayNode().GetColorNode() if labelmap.GetDisplayNode() else None
        results.removeVolume(labelmap)
        if colors is not None and not colors.GetSingletonTag():
            scene.RemoveNode(colors)  # made by the export for the names of the segments


def _nameSegment(segment, value: int, labels: Sequence[LabelClass]) -> None:
    label = next((label for label in labels if label.value == value), None)
    if label is None:
        segment.SetName(f"label {value}")
        return
    segment.SetName(label.name)
    segment.SetColor(*label.color)
    terminology = terminologyEntry(label.terminology)
    if terminology:
        segment.SetTag(segment.GetTerminologyEntryTagName(), terminology)


def terminologyEntry(terminology: Any) -> str:
    """Return a segment's terminology tag as Slicer writes it, empty when the server names none that is known.

    Accepts Slicer's own text, or ``{"category": code, "type": code}`` with codes of ``scheme, value, meaning``.
    """
    if isinstance(terminology, str):
        # Slicer refuses an entry without all seven parts; the last four may be empty codes.
        parts = terminology.split("~")
        return "~".join(parts + ["^^", "", "^^", "^^"][len(parts) - 3 :]) if 3 <= len(parts) <= 7 else ""
    if not isinstance(terminology, dict):
        return ""
    category, kind = _code(terminology.get("category")), _code(terminology.get("type"))
    context = "Segmentation category and type - DICOM master list"
    return "~".join((context, category, kind, "^^", "", "^^", "^^")) if category and kind else ""


def _code(code: Any) -> str:
    if not isinstance(code, dict):
        return ""
    return "^".join(str(code.get(key) or "") for key in ("scheme", "value", "meaning"))
