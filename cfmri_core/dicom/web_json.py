"""DICOM JSON, the answers to queries (PS3.18 annex F)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import httpx
from pydicom.dataset import Dataset

from cfmri_core.errors import RemoteError

#: Largest answer to a query, in bytes.
_MAX_BYTES = 256 * 2**20
_FAILED, _FAILURE_REASON = "00081198", "00081197"
_NO_JSON = ("The archive's answer is not DICOM JSON.", "Check the path: Orthanc's ends in /dicom-web.")


def limited_content(response: httpx.Response) -> bytes:
    """Return the body of an answer that is not to be long.

    Raises:
        RemoteError: It is longer than `_MAX_BYTES`.
    """
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > _MAX_BYTES:
            raise RemoteError("The archive's answer is too long.", "Ask for less, with --filter or --limit.")
    return bytes(content)


def json_items(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the results of a query; an empty answer has none.

    Raises:
        RemoteError: It is no DICOM JSON; worth another try if it says that it is.
    """
    content = limited_content(response)
    if not content.strip():
        return []
    try:
        items = json.loads(content)
    except ValueError:
        is_json = "json" in response.headers.get("Content-Type", "")
        raise RemoteError(*_NO_JSON, retryable=is_json) from None
    items = [items] if isinstance(items, dict) else items
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise RemoteError(*_NO_JSON)
    return items


def failure_reasons(answer: bytes) -> list[int]:
    """Return why objects were not stored; an answer in another format says nothing, and the archive is asked anyway."""
    try:
        content = json.loads(answer)
    except ValueError:
        return []
    content = content[0] if isinstance(content, list) and content else content
    items = _values(content, _FAILED) if isinstance(content, dict) else []
    codes = [(_values(item, _FAILURE_REASON) or [0])[0] for item in items if isinstance(item, dict)]
    return [code if isinstance(code, int) else 0 for code in codes]


def _values(item: Mapping[str, Any], tag: str) -> list[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def value_of(item: Mapping[str, Any], tag: str) -> str:
    """Return the first value of an attribute as text; empty if there is none."""
    values = _values(item, tag)
    return str(values[0]).strip() if values and isinstance(values[0], (str, int)) else ""


def dataset_of(item: Mapping[str, Any]) -> Dataset:
    """Return the attributes that can be decoded; pixels and other bulk data are left where they are."""
    dataset = Dataset()
    for tag, element in item.items():
        if isinstance(element, dict) and "BulkDataURI" not in element:
            with contextlib.suppress(Exception):  # a damaged element says nothing
                dataset.update(Dataset.from_json({tag: element}))
    return dataset
