"""What a counterfactual changed: a signed map with a symmetric scale and colour bar. No Qt."""

from __future__ import annotations

from CounterfactualMRILib import exchange, results
from CounterfactualMRILib.volume_display import addColorBar, colorTable, displayLimit, showVolume

#: Colour table of signed maps: blue is darker than the source, red is brighter, no change is white.
COLOR_NODE = "CounterfactualMRI difference"


def differenceOf(counterfactual):
    """Return the difference of a counterfactual that is in the scene, ``None`` if none was made yet."""
    return counterfactual.GetNodeReference(results.ATTRIBUTE + "difference")


def subtract(counterfactualVoxels, sourceVoxels):
    """Return counterfactual minus source as float32, and the largest difference worth showing.

    Slow for large volumes, and touches nothing of the scene: meant for a worker thread.
    """
    difference = counterfactualVoxels.astype("float32") - sourceVoxels.astype("float32")
    return difference, displayLimit(difference)


def insertDifference(counterfactual, difference, limit: float):
    """Add a difference to the scene.

    Args:
        counterfactual: Volume made by this module.
        difference: What `subtract` returned, on the counterfactual's grid in the source's units.
        limit: The scale reaches from minus to plus this value.

    Returns:
        The volume node.
    """
    name = f"{results.SYNTHETIC} difference of {counterfactual.GetName()}"
    image = exchange.Image(difference, exchange.matrixOf(counterfactual))
    node = results.insertMap(exchange.nodeOf(image), counterfactual, "difference", name)
    showVolume(node, 2 * limit, 0.0, colorTable(COLOR_NODE, _signedColor).GetID(), interpolate=False)
    addColorBar(node, "difference", limit)
    return node


def _signedColor(place: float) -> tuple[float, float, float]:
    share = 2 * place - 1
    size = abs(share)
    red, blue = (1.0, 1 - size) if share > 0 else (1 - size, 1.0)
    return red, 1 - size, blue
