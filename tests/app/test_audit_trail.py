"""Which requests leave a line, and that no answer goes out before its line is on disk."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from cfmri_server.audit import AuditLog, find, verify
from cfmri_server.audit_trail import REFUSED_LOGIN, AuditTrail, later, noted

from cfmri_core.errors import ResourceError


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "audit")


def asked(trail: AuditTrail, query: str = "") -> list[dict[str, object]]:
    """Send one request; return what the client received."""
    received = []

    async def send(message):
        received.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": query.encode()}
    asyncio.run(trail({**scope, "client": ("192.0.2.7", 5)}, None, send))
    return received


def noting(status: int = 200, **notes):
    """An application that answers with a status and notes something of the request."""

    async def application(scope, receive, send):
        noted(scope).update(notes)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"secret"})

    return application


def lines(log: AuditLog) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()] if log.path.exists() else []


def test_only_what_has_an_action_leaves_a_line(log):
    asked(AuditTrail(noting(who="ann"), log))
    assert lines(log) == []
    asked(AuditTrail(noting(who="ann", action="infer", model="x", image="Doe"), log), "image=Other&id=y")
    (event,) = lines(log)
    assert (event["who"], event["action"], event["model"], event["status"]) == ("ann", "infer", "x", 200)
    assert event["address"] == "192.0.2.7"
    assert "Doe" not in str(event)
    assert [event["image"] for event in find(log.path, "Doe")] == [event["image"]]
    assert "id" not in event


def test_a_name_that_was_not_accepted_is_not_written(log):
    asked(AuditTrail(noting(404, who="ann", action="infer", model="Doe-John"), log))
    assert "Doe" not in log.path.read_text()


def test_the_line_is_there_before_the_answer(log):
    seen = []

    class Slow(AuditLog):
        def append(self, event):
            time.sleep(0.05)
            super().append(event)
            seen.append(time.monotonic())

    trail = AuditTrail(noting(who="ann", action="infer"), Slow(log.path.parent))
    assert [message["type"] for message in asked(trail)] == ["http.response.start", "http.response.body"]
    assert len(seen) == len(lines(log)) == 1


def test_what_cannot_be_audited_is_not_answered(tmp_path):
    (tmp_path / "audit").write_text("a file where the folder should be")
    start, body = asked(AuditTrail(noting(who="ann", action="export image"), AuditLog(tmp_path / "audit")))
    assert start["status"] == 507
    assert b"secret" not in body["body"]
    assert b"audit log" in body["body"]


@pytest.mark.flaky(reruns=2)
def test_the_event_loop_goes_on_while_a_line_is_written(log):
    class Slow(AuditLog):
        def append(self, event):
            time.sleep(0.5)

    async def both() -> float:
        began = time.monotonic()
        trail = AuditTrail(noting(who="ann", action="infer"), Slow(log.path.parent))
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}

        async def send(message):
            pass

        writing = asyncio.ensure_future(trail(scope, None, send))
        await asyncio.sleep(0.05)
        elapsed_s = time.monotonic() - began
        await writing
        return elapsed_s

    assert asyncio.run(both()) < 0.4


def test_refused_logins_are_counted_and_do_not_fill_the_disk(log):
    trail = AuditTrail(noting(401, action=REFUSED_LOGIN), log)
    for _ in range(20):
        asked(trail)
    assert [event["times"] for event in lines(log)] == [1]
    trail._refusal_written_s -= 2
    asked(trail)
    assert [event["times"] for event in lines(log)] == [1, 20]


def test_an_event_after_the_answer_is_the_same_clients(log):
    written = []

    async def application(scope, receive, send):
        noted(scope).update(who="ann", action="start job")
        written.append(later(scope))
        await noting(202)(scope, receive, send)

    asked(AuditTrail(application, log))
    written[0]({"action": "end job", "job": "5"})
    assert [(event["who"], event["action"]) for event in lines(log)] == [("ann", "start job"), ("ann", "end job")]
    assert verify(log.path).lines == 2
    log.path.write_text(log.path.read_text()[:-9] + "changed}\n")
    with pytest.raises(ResourceError):
        written[0]({"action": "end job"})
