"""How far a counterfactual may lie from the truth: the server's map of half-widths, shown over it. No Qt."""

from __future__ import annotations

from typing import Any, Mapping

from CounterfactualMRILib import exchange, results
from CounterfactualMRILib.volume_display import addColorBar, colorTable, showVolume

#: Colour table of uncertainties: dark where the counterfactual is known best, yellow where it is known least.
COLOR_NODE = "CounterfactualMRI uncertainty"
#: Name of the boolean parameter with which the map is asked for, and of its part of the answer.
PARAMETER = "uncertainty"


def uncertaintyOf(counterfactual):
    """Return the uncertainty of a counterfactual that is in the scene, ``None`` if it was not asked for."""
    return counterfactual.GetNodeReference(results.ATTRIBUTE + PARAMETER)


def insertUncertainty(widths: exchange.Image, shown: tuple[float, float], counterfactual, evidence: Mapping[str, Any]):
    """Add the map of a counterfactual to the scene, beside it.

    Args:
        widths: Half-widths of the interval, in the source's unit of intensity.
        shown: Lowest and highest half-width of the scale.
        counterfactual: Volume in the scene that the map belongs to.
        evidence: The server's account of how it was made.

    Returns:
        The volume node.

    Raises:
        ExchangeProblem: The map does not lie on the counterfactual's grid.
    """
    node = exchange.nodeOf(widths)
    node.SetIJKToRASMatrix(exchange.gridOfResult(node, counterfactual))
    node = results.insertMap(node, counterfactual, PARAMETER, f"{counterfactual.GetName()} uncertainty")
    said = evidence.get(PARAMETER) if isinstance(evidence.get(PARAMETER), dict) else {}
    level = said.get("level") if isinstance(said.get("level"), (int, float)) else 0.9
    node.SetAttribute(results.ATTRIBUTE + "Quantity", f"half-width of the {level:.0%} interval")
    node.SetAttribute(results.ATTRIBUTE + "Unit", "intensity of the source")
    low, high = shown
    showVolume(node, high - low, (low + high) / 2, colorTable(COLOR_NODE, _color).GetID(), interpolate=False)
    addColorBar(node, f"± intensity, {level:.0%}", high)
    return node


def inWords(evidence: Mapping[str, Any]) -> str:
    """Say how large the uncertainty is on average, and what it rests on; empty where none was asked for."""
    said = evidence.get(PARAMETER)
    mean = said.get("mean_half_width") if isinstance(said, dict) else None
    if not isinstance(mean, (int, float)):
        return ""
    basis = "calibrated on paired truth" if said.get("calibrated") else "not calibrated: the spread of replays only"
    if said.get("calibration_subjects") and not said.get("calibrated"):
        basis = "calibrated for other settings only"
    level = f"{said.get('level', 0.9):.0%}"
    return f"The truth should lie within ± {mean:.3g} (mean half-width of the {level} interval, {basis})."


def _color(place: float) -> tuple[float, float, float]:
    return min(1.0, 1.6 * place), place**2, 0.5 * place * (1 - place)
