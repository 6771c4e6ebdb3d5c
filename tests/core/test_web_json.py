"""Answers in DICOM JSON, and in what passes for it."""

from __future__ import annotations

import httpx
import pytest

from cfmri_core.dicom.web_json import dataset_of, failure_reasons, json_items, limited_content, value_of
from cfmri_core.errors import RemoteError

JSON = {"Content-Type": "application/dicom+json"}


def test_results_are_a_list_of_objects():
    assert json_items(httpx.Response(200, content=b'[{"a": 1}]')) == [{"a": 1}]
    assert json_items(httpx.Response(200, content=b'{"a": 1}')) == [{"a": 1}]
    assert json_items(httpx.Response(204)) == []


@pytest.mark.parametrize(
    ("content", "headers", "retryable"),
    [(b'[{"a', JSON, True), (b"<html>", {}, False), (b"[1]", JSON, False), (b'"text"', JSON, False)],
)
def test_anything_else_is_refused(content, headers, retryable):
    with pytest.raises(RemoteError, match="not DICOM JSON") as problem:
        json_items(httpx.Response(200, content=content, headers=headers))
    assert problem.value.retryable == retryable


def test_long_answers_are_not_read(monkeypatch):
    monkeypatch.setattr("cfmri_core.dicom.web_json._MAX_BYTES", 10)
    with pytest.raises(RemoteError, match="too long"):
        limited_content(httpx.Response(200, content=b"x" * 11))


def test_the_reasons_of_a_failed_storage_are_found():
    failed = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [43264]}}]}}'
    assert failure_reasons(failed) == [0xA900]
    assert failure_reasons(b"[" + failed + b"]") == [0xA900]
    assert failure_reasons(b'{"00081198": {"vr": "SQ"}}') == []
    assert failure_reasons(b"<xml/>") == []
    assert failure_reasons(b'{"00081198": {"Value": [{}]}}') == [0]


def test_values_and_headers_survive_damage():
    item = {"00180081": {"vr": "DS", "Value": [2.81]}, "00200013": {"vr": "IS", "Value": ["x"]}, "7FE00010": 3,
            "0008103E": {"vr": "LO", "Value": ["t1"]}, "00420011": {"vr": "OB", "BulkDataURI": "http://x"}}  # fmt: skip
    assert dataset_of(item).EchoTime == 2.81
    assert "EncapsulatedDocument" not in dataset_of(item)
    assert value_of(item, "0008103E") == "t1"
    assert value_of(item, "00080060") == ""
