"""Which requests leave a line in the audit log. It is written before the answer goes out, or no answer goes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cfmri_core.errors import CfmriError
from cfmri_server.audit import AuditLog
from cfmri_server.problem import response_of

#: Action of a request with a token that nobody holds.
REFUSED_LOGIN = "refused login"

_NOTES, _LOG = "cfmri.audit", "cfmri.audit_log"

#: Refused logins are written at most so often, in seconds, with their number: they must not fill the disk.
SECONDS_BETWEEN_REFUSALS = 1.0

#: Values of a path that are no ids. A client may write anything there, so they count only where they were accepted.
_NAMES = ("model", "strategy", "method")


def noted(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return what is known so far of a request's event, to be added to. It leaves a line if it has an ``action``."""
    notes: dict[str, Any] = scope.setdefault(_NOTES, {})
    return notes


def later(scope: MutableMapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """Return how to write an event that comes after the answer, such as the end of a job, as the same client's."""
    notes = noted(scope)
    client = {name: notes.get(name) for name in ("who", "address")}
    log: AuditLog = scope[_LOG]
    return lambda event: log.append({**client, **event})


class AuditTrail:
    """ASGI middleware that writes events to the audit log, off the event loop.

    Args:
        application: What it watches; it says by `noted` who asks, for what, and which model ran.
        log: Where events go.
    """

    def __init__(self, application: ASGIApp, log: AuditLog) -> None:
        self.application = application
        self.log = log
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._refusals, self._refusal_written_s = 0, -SECONDS_BETWEEN_REFUSALS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and write its event when the answer begins."""
        is_replaced = False

        async def auditing_send(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start":
                try:
                    await self._record(scope, message["status"])
                except CfmriError as failure:
                    is_replaced = True
                    await response_of(failure)(scope, receive, send)
            if not is_replaced:
                await send(message)

        client = scope.get("client")
        noted(scope)["address"] = client[0] if client else None  # made here, so that copies of the scope share it
        scope[_LOG] = self.log
        await self.application(scope, receive, auditing_send)

    async def _record(self, scope: Scope, status: int) -> None:
        event = _event(scope, status)
        if not event.get("action"):
            return
        if event["action"] == REFUSED_LOGIN:
            self._refusals += 1
            if time.monotonic() - self._refusal_written_s < SECONDS_BETWEEN_REFUSALS:
                return
            event["times"], self._refusals, self._refusal_written_s = self._refusals, 0, time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._writer, self.log.append, event)


def _event(scope: Scope, status: int) -> dict[str, Any]:
    notes = {name: value for name, value in noted(scope).items() if status < 400 or name not in _NAMES}
    return {**notes, "status": status}
