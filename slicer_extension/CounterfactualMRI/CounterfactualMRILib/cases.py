"""Cases: volumes of the scene that are images on a server, to be labelled there. No Qt."""

from __future__ import annotations

import json
from typing import Any, Mapping

import slicer

from CounterfactualMRILib import acquisition, exchange, results
from CounterfactualMRILib.nifti import Image
from CounterfactualMRILib.volume_display import showVolume

#: Node attributes: the image's id, and the only server on which it means anything.
_IMAGE, _SERVER = results.ATTRIBUTE + "Image", results.ATTRIBUTE + "Server"


def insertCase(image: Image, window: tuple[float, float], imageId: str, address: str, known: Mapping[str, Any]):
    """Add an image of the server to the scene.

    Args:
        image: Voxels and geometry.
        window: Lowest and highest intensity to show.
        imageId: Its id on the server; also the node's name.
        address: The server.
        known: How it was acquired, as far as the server knows.

    Returns:
        The volume node.
    """
    node = exchange.nodeOf(image)
    node.SetName(slicer.mrmlScene.GetUniqueNameByString(imageId))
    if known:
        node.SetAttribute(acquisition.ATTRIBUTE, json.dumps(dict(known), sort_keys=True))
    markCase(node, imageId, address)
    node = slicer.mrmlScene.AddNode(node)  # selectors look at it from here on
    low, high = window
    showVolume(node, high - low, (low + high) / 2)
    return node


def requireStorable(node, address: str, mayStore: bool) -> None:
    """Refuse what must not become an image of a server, or may not.

    Args:
        node: The volume.
        address: The server.
        mayStore: The user agrees to storing it there.

    Raises:
        ExchangeProblem: The volume is synthetic; or it is not there yet, and the user did not agree.
    """
    if results.isMade(node):
        raise exchange.ExchangeProblem(
            f"'{node.GetName()}' is synthetic; the server trains on acquired images only.",
            "Choose the volume that it was made from, and its segmentation.",
        )
    if not (imageIdOf(node, address) or mayStore):
        raise exchange.ExchangeProblem(
            "This volume is not on the server, and labels without their image are of no use there.",
            "Allow storing the volume on the server too.",
        )


def markCase(node, imageId: str, address: str) -> None:
    """Note that a volume is an image of a server."""
    node.SetAttribute(_IMAGE, imageId)
    node.SetAttribute(_SERVER, address)


def imageIdOf(node, address: str) -> str:
    """Return the id of the volume's image on a server, empty if it is none of its images."""
    return (node.GetAttribute(_IMAGE) or "") if node.GetAttribute(_SERVER) == address else ""
