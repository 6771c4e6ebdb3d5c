"""What stands before every route: known hosts only, closed routes, a limit on the body.

MONAI Label's own holes that are closed here are listed in the project's documentation of the server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, unquote

from fastapi import HTTPException
from starlette.responses import JSONResponse

from cfmri_core.errors import CfmriError
from cfmri_server.jobs import typed
from cfmri_server.problem import ClosedRouteError, FieldError, TooLargeError, body_of, detail_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Largest request body, in bytes.
MAX_BODY_BYTES = int(os.environ.get("CFMRI_MAX_BODY_BYTES", 2 * 2**30))

#: Method and path of routes that are not offered: weights in and out, the PACS proxy, logs, whole-slide
#: inference, the bundled viewer, and the reload that would drop the running app.
_CLOSED = tuple(
    (methods, re.compile(path))
    for methods, path in (
        ({"GET", "PUT", "DELETE", "POST"}, r"/model/(?!info/)[^/]*/?"),
        (None, r"/proxy(/.*)?"),
        (None, r"/logs(/.*)?"),
        (None, r"/ohif(/.*)?"),
        (None, r"/infer/wsi(_v2)?/.*"),
        (None, r"/reload/?"),
        ({"POST"}, r"/(train|scoring)/?"),
    )
)

#: Names by which a loopback server may be called; anything else may be a web page's DNS trick.
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Guard:
    """ASGI middleware that refuses what must not reach a route.

    Args:
        application: What it guards.
        hosts: Accepted names in the Host header, without port.
        max_body_bytes: Largest request body.
    """

    def __init__(
        self, application: Application, hosts: frozenset[str] = LOOPBACK_HOSTS, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.application = application
        self.hosts = hosts
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await JSONResponse(body_of(refusal), refusal.http_status)(scope, receive, send)
            return
        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.application(scope, _counted(receive, self.max_body_bytes), noting_send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)
        except Exception as error:  # uvicorn would log its text, which may hold patient data
            failure = typed(error)
            if not answered:
                await JSONResponse(body_of(failure), failure.http_status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> CfmriError | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if re.sub(r":\d+$", "", host) not in self.hosts:
            return FieldError("This server does not answer to that name.", "Use http://127.0.0.1.", field="Host")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.max_body_bytes:
            return _too_large(self.max_body_bytes)
        path = unquote(scope["path"])
        for methods, pattern in _CLOSED:
            if (methods is None or scope["method"] in methods) and pattern.fullmatch(path):
                return ClosedRouteError("This route is closed on a cfmri server.", "See the README of the app.")
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if path.startswith("/session") and query.get("uncompress", ["false"])[-1].lower() not in ("false", "0"):
            return ClosedRouteError("Archives are not unpacked.", "Send the files of the series one by one.")
        return None


def _counted(receive: Receive, limit: int) -> Receive:
    """Count a body as it comes in, whatever Content-Length said.

    The refusal is an HTTPException, the only exception that FastAPI's body parser lets through.
    """
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            error = _too_large(limit)
            raise HTTPException(error.http_status, detail_of(error))
        return message

    return counting


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"The request is larger than {limit} bytes.", "Crop the image, or raise CFMRI_MAX_BODY_BYTES.")
