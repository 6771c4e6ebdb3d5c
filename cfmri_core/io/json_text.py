"""JSON that every parser accepts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def json_text(data: object, indent: int | None = 2) -> str:
    """Return strict JSON: dataclasses as objects, arrays as lists, NaN and infinities as ``null``.

    Bytes of a path that are not UTF-8 are escaped: the text can be encoded, and gives the path back.
    """
    text = json.dumps(plain(data), indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parsed_json(text: str | bytes) -> Any:
    """Parse JSON; NaN and infinities, which `json` takes for numbers, are refused.

    Raises:
        ValueError: It is not JSON.
    """
    return json.loads(text, parse_constant=_refused)


def number(value: Any, least: float = -math.inf) -> float:
    """Return what was parsed where a number belongs.

    Raises:
        ValueError: It is something else, not finite, or less than ``least``.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least:
        raise ValueError(f"{value!r:.40} stands where a number from {least:g} belongs")
    return float(value)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def plain(data: object) -> Any:
    """Return the same data made of dict, list, str, int, float, bool and None only."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return {field.name: plain(getattr(data, field.name)) for field in dataclasses.fields(data)}
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(value) for value in data]
    if isinstance(data, (np.ndarray, np.generic)):
        return plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    return str(data) if isinstance(data, Path) else data
