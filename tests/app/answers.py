"""Take the server's answers apart, and make requests of them."""

from __future__ import annotations

import email.parser
import email.policy
import json
import time
from pathlib import Path
from typing import Any

import httpx


def form(**params: Any) -> dict[str, str]:
    return {"params": json.dumps(params)}


def parts(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """Return the parts ``params`` and ``image`` of a multipart answer."""
    found = all_parts(response)
    return json.loads(found["params"]), found["image"]


def all_parts(response: httpx.Response) -> dict[str, bytes]:
    """Return the parts of a multipart answer by name."""
    assert response.status_code == 200, response.text
    head = b"Content-Type: " + response.headers["content-type"].encode() + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + response.content)
    return {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in message.iter_parts()
    }


def saved_image(response: httpx.Response, path: Path) -> Path:
    path.write_bytes(parts(response)[1])
    return path


def refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that an answer is a typed refusal, and return its detail."""
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert set(detail) == {"field", "value", "accepted", "message", "hint"}
    assert detail["message"]
    assert "Traceback" not in response.text
    return detail


def wait_for_job(http: httpx.Client, job_id: str, *states: str, timeout_s: float = 60) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = http.get(f"/jobs/{job_id}").json()
        if status["state"] in states:
            return status
        time.sleep(0.05)
    raise AssertionError(f"The job did not become {states}: {status}")
