"""What the server returned, put into the scene beside its source. Nothing that is there is overwritten. No Qt."""

from __future__ import annotations

import json
import time
import zlib
from typing import Any, Mapping

import slicer
import vtk

from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.volume_display import showVolume

#: Prefix of the node attributes that say where a synthetic volume comes from; they are saved with the scene.
ATTRIBUTE = "CounterfactualMRI."
SOURCE_ROLE = ATTRIBUTE + "source"
SYNTHETIC = "[synthetic]"
#: Attribute of our folders in the subject hierarchy, and what lies in them.
_FOLDER = ATTRIBUTE + "FolderOf"
_RESULT_CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
_CHECKSUM = ATTRIBUTE + "SourceChecksum"
#: Roles under which a counterfactual refers to what was made of it.
_MAP_ROLES = ("difference", "uncertainty")


def requireInScene(node) -> None:
    """Refuse a source that was removed from the scene while the server worked.

    Raises:
        ExchangeProblem: It is no longer there.
    """
    if slicer.mrmlScene.GetNodeByID(node.GetID() or "") is not node:
        raise ExchangeProblem(
            "The source volume was removed meanwhile; the result was not loaded.", "Load it and repeat."
        )


def checksumOf(voxels) -> str:
    """Return what tells a volume's voxels from others: 16 ms for 32 MB, meant for a worker thread where it can be."""
    import numpy as np

    return f"{zlib.crc32(np.ascontiguousarray(voxels)):08x}"


def insertCounterfactual(result, source, evidence: Mapping[str, Any], version: str, checksum: str = ""):
    """Add a counterfactual volume to the scene, in the source's folder, window and parent transform.

    Args:
        result: Volume node that is not in a scene yet, on the source's grid.
        source: The volume that it was made from.
        evidence: The server's account of how it was made.
        version: Version of the server.
        checksum: Of the source's voxels that were sent, see `checksumOf`; empty if it is unknown.

    Returns:
        The node in the scene.
    """
    changes = evidence.get("changes") if isinstance(evidence.get("changes"), dict) else {}
    words = f" ({evidence['edit']})" if isAnatomical(evidence) else _inWords(changes)
    name = f"{SYNTHETIC} {source.GetName()}{words}"
    result.SetName(slicer.mrmlScene.GetUniqueNameByString(name))
    node = slicer.mrmlScene.AddNode(result)
    _markSynthetic(node, source, evidence, version)
    if checksum:
        node.SetAttribute(_CHECKSUM, checksum)
    _showLike(node, source)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    placeInFolder(node, source)
    return node


def insertMap(node, counterfactual, role: str, name: str):
    """Add a map of a counterfactual to the scene: in its folder and parent transform, removed together with it.

    Args:
        node: Volume node that is not in a scene yet.
        counterfactual: What it is a map of.
        role: One of "difference" and "uncertainty".
        name: Made unique in the scene.

    Returns:
        The node in the scene.
    """
    node.SetName(slicer.mrmlScene.GetUniqueNameByString(name))
    node = slicer.mrmlScene.AddNode(node)
    node.SetAttribute(ATTRIBUTE + role.capitalize(), "true")
    node.SetAndObserveTransformNodeID(counterfactual.GetTransformNodeID())
    counterfactual.SetNodeReferenceID(ATTRIBUTE + role, node.GetID())
    placeBeside(node, counterfactual)
    return node


def isSynthetic(node) -> bool:
    """Tell whether a volume is a counterfactual that was made by this module."""
    return node is not None and node.GetAttribute(ATTRIBUTE + "Synthetic") == "true"


def isMade(node) -> bool:
    """Tell whether a volume was made by this module, or is a map of one that was."""
    return isSynthetic(node) or any(node.GetAttribute(ATTRIBUTE + role.capitalize()) for role in _MAP_ROLES)


def sourceOf(node):
    """Return the volume that a result was made from, ``None`` if it is no longer in the scene."""
    return node.GetNodeReference(SOURCE_ROLE)


def counterfactualsOf(source) -> list:
    """Return the counterfactuals of a volume that are in the scene, the oldest first."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if isSynthetic(node) and source is not None and sourceOf(node) is source]


def sourceVoxels(node):
    """Return the source's voxels on a counterfactual's grid, which may be a slab of it; shape (k, j, i).

    Raises:
        ExchangeProblem: The source was removed, or has other voxels or another grid by now.
    """
    requireSameSource(node)
    source = sourceOf(node)
    toSource, toNode = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    source.GetRASToIJKMatrix(toSource)
    node.GetIJKToRASMatrix(toNode)
    vtk.vtkMatrix4x4.Multiply4x4(toSource, toNode, toNode)
    first = [round(toNode.GetElement(axis, 3)) for axis in range(3)]
    sizes, all_ = node.GetImageData().GetDimensions(), source.GetImageData().GetDimensions()
    isPart = all(at >= 0 and at + size <= whole for at, size, whole in zip(first, sizes, all_))
    steps = [abs(toNode.GetElement(row, column) - (row == column)) for row in range(3) for column in range(3)]
    offsets = [abs(toNode.GetElement(axis, 3) - first[axis]) for axis in range(3)]
    if not isPart or max(steps) > 1e-3 or max(offsets) > 1e-2:
        raise ExchangeProblem("The source no longer lies on the counterfactual's grid.", "Generate it again.")
    i, j, k = (slice(at, at + size) for at, size in zip(first, sizes))
    return slicer.util.arrayFromVolume(source)[k, j, i]


def requireSameSource(node) -> None:
    """Refuse to compare a counterfactual with something else than it was made from, such as another time point.

    Raises:
        ExchangeProblem: The source was removed, or has other voxels by now.
    """
    source, checksum = sourceOf(node), node.GetAttribute(_CHECKSUM)
    if source is None:
        raise ExchangeProblem("The source of this counterfactual was removed from the scene.", "Load it again.")
    if checksum and checksum != checksumOf(slicer.util.arrayFromVolume(source)):
        raise ExchangeProblem(
            f"'{source.GetName()}' has other voxels than when this counterfactual was made of it.",
            "In a sequence, go back to its time point; else generate it again.",
        )


def evidenceOf(node) -> dict[str, Any]:
    """Return the server's account of how a counterfactual was made, empty if it is unreadable."""
    try:
        evidence = json.loads(node.GetAttribute(ATTRIBUTE + "Evidence") or "{}")
    except ValueError:
        return {}
    return evidence if isinstance(evidence, dict) else {}


def isAnatomical(evidence: Mapping[str, Any]) -> bool:
    """Tell whether a counterfactual changed anatomy, not acquisition: the server says in words what was edited."""
    return bool(evidence.get("edit"))


def requestedChangesOf(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that were asked for, by name, from the server's account."""
    changes = evidence.get("changes") if isinstance(evidence.get("changes"), dict) else {}
    after = {name: change[-1] if isinstance(change, list) and change else change for name, change in changes.items()}
    return {name: value for name, value in after.items() if value is not None}


def optionsOf(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return how it was made: method, seed, and the other options that the method has."""
    names = ["method", "seed", "source_noise"]
    if (evidence.get("steps") or 0) > 1:  # one step is a method without
        names += ["steps", "guidance_scale"]
    return {name: evidence[name] for name in names if evidence.get(name) is not None}


def remove(node) -> None:
    """Remove a counterfactual from the scene, and what was made of it."""
    for made in (*(node.GetNodeReference(ATTRIBUTE + role) for role in _MAP_ROLES), node):
        if made is not None:
            removeVolume(made)


def removeVolume(node) -> None:
    """Remove a volume from the scene together with its place in the subject hierarchy and its display nodes."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:
        hierarchy.RemoveItem(item, False, False)
    displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for one in (node, *displays):
        if one is not None and slicer.mrmlScene.IsNodePresent(one):
            slicer.mrmlScene.RemoveNode(one)


def placeBeside(node, other) -> None:
    """Put a node into the subject-hierarchy folder of another."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is not None:
        hierarchy.SetItemParent(_itemOf(hierarchy, node), hierarchy.GetItemParent(_itemOf(hierarchy, other)))


def placeInFolder(node, source) -> None:
    """Put the node into the subject-hierarchy folder of its source's results, which is made when there is none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    hierarchy.SetItemParent(_itemOf(hierarchy, node), _folderOf(hierarchy, source))


def _markSynthetic(node, source, evidence: Mapping[str, Any], version: str) -> None:
    node.SetNodeReferenceID(SOURCE_ROLE, source.GetID())
    node.SetAttribute(ATTRIBUTE + "Synthetic", "true")
    node.SetAttribute(ATTRIBUTE + "Created", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    node.SetAttribute(ATTRIBUTE + "ServerVersion", version)
    for key in ("model", "method", "seed", "factual", "requested", "changes", "warnings", "quality"):
        if evidence.get(key) is not None:
            value = evidence[key]
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            node.SetAttribute(ATTRIBUTE + key.capitalize(), text)
    node.SetAttribute(ATTRIBUTE + "Evidence", json.dumps(evidence, sort_keys=True))


def _showLike(node, source) -> None:
    """Give the node the source's window, level and colours, so that the two can be compared."""
    if source.GetDisplayNode() is None:
        source.CreateDefaultDisplayNodes()
    shown = source.GetDisplayNode()
    showVolume(node, shown.GetWindow(), shown.GetLevel(), shown.GetColorNodeID() or "", bool(shown.GetInterpolate()))


def _inWords(changes: Mapping[str, Any]) -> str:
    """Say in a few words what was changed: " (1.5 T, TE 1.36 ms)"."""
    short = {
        "field_strength_t": "{:g} T",
        "echo_time_ms": "TE {:g} ms",
        "repetition_time_ms": "TR {:g} ms",
        "flip_angle_deg": "{:g} deg",
        "slice_thickness_mm": "{:g} mm",
    }
    words = []
    for name, change in changes.items():
        value = change[-1] if isinstance(change, list) and change else change  # [before, after] or after
        if value is None:
            continue  # unknown afterwards, e.g. the manufacturer where only another scanner model was asked for
        isNumber = isinstance(value, (int, float)) and name in short
        words.append(short[name].format(value) if isNumber else str(value))
    return f" ({', '.join(words)})" if words else ""


def _folderOf(hierarchy, source) -> int:
    """Return the folder in which results of the source lie, found through one of them: ids change when scenes meet."""
    nodes = [node for kind in _RESULT_CLASSES for node in slicer.util.getNodesByClass(kind)]
    for node in nodes:
        item = hierarchy.GetItemByDataNode(node) if sourceOf(node) is source else 0
        folder = hierarchy.GetItemParent(item) if item else 0
        if folder and hierarchy.GetItemAttribute(folder, _FOLDER):
            return folder
    parent = hierarchy.GetItemParent(_itemOf(hierarchy, source))
    folder = hierarchy.CreateFolderItem(parent, f"Counterfactual MRI: {source.GetName()}")
    hierarchy.SetItemAttribute(folder, _FOLDER, source.GetName())
    return folder


def _itemOf(hierarchy, node) -> int:
    """Return the node's item. In Slicer a plugin has made it; without the application nobody has."""
    item = hierarchy.GetItemByDataNode(node)
    return item or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
