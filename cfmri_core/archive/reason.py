"""Why a series of an archive is left out."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a series is left out, in a word."""

    NOT_MR = "not MR"
    SYNTHETIC = "synthetic"
    LOCALIZER = "localizer"
    DERIVED = "derived"
    SEVERAL_VOLUMES = "several volumes"
    TOO_FEW_SLICES = "too few slices"
    IRREGULAR = "irregular"
    UNSUPPORTED = "unsupported"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"
