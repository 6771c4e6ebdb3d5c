"""How a volume was acquired: from Slicer's DICOM database, or as the server that it came from knew. No Qt."""

from __future__ import annotations

import json
import math
from typing import Callable

import slicer

#: Node attribute in which a volume from the server carries how it was acquired, as JSON.
ATTRIBUTE = "CounterfactualMRI.Acquisition"

#: DICOM attribute of each acquisition parameter (PS3.6), and whether it is a number.
_ATTRIBUTES = {
    "manufacturer": ("0008,0070", False),
    "manufacturer_model": ("0008,1090", False),
    "field_strength_t": ("0018,0087", True),
    "scan_options": ("0018,0022", False),
    "flip_angle_deg": ("0018,1314", True),
    "slice_thickness_mm": ("0018,0050", True),
    "echo_time_ms": ("0018,0081", True),
    "repetition_time_ms": ("0018,0080", True),
}


def readAcquisition(volumeNode) -> dict[str, str | float]:
    """Return how a volume was acquired, by parameter name; what nobody knows is left out.

    A volume from the server carries what the server knew, any other what its DICOM header says. Empty for
    one that has neither, or whose files the database no longer knows; then the server predicts the
    parameters from the image.
    """
    noted = volumeNode.GetAttribute(ATTRIBUTE)
    if noted:
        return dict(json.loads(noted))
    uids = (volumeNode.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None or not database.isOpen:
        return {}
    return parseAcquisition(lambda tag: database.instanceValue(uids[0], tag))


def whereFrom(volumeNode) -> str:
    """Say who knows what `readAcquisition` returns."""
    return "as the server knows them" if volumeNode.GetAttribute(ATTRIBUTE) else "from the DICOM header"


def parseAcquisition(valueOf: Callable[[str], str]) -> dict[str, str | float]:
    """Parse DICOM values into parameters; an empty, repeated or unreadable number is left out.

    Args:
        valueOf: Returns the text of an attribute ("0018,0081"), empty if there is none.
    """
    parsed = {name: _parsed(valueOf(tag) or "", isNumber) for name, (tag, isNumber) in _ATTRIBUTES.items()}
    return {name: value for name, value in parsed.items() if value is not None}


def _parsed(text: str, isNumber: bool) -> str | float | None:
    text = text.strip().strip("\0")
    if not isNumber:
        return text or None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
