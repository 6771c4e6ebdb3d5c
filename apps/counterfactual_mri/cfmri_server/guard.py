"""What stands before every route: known hosts, tokens and roles, open routes only, a limit on the body.

MONAI Label's own holes that are closed here are listed in the project's documentation of the server.
"""

from __future__ import annotations

import logging
import os
import re

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cfmri_core.errors import CfmriError, RequestError
from cfmri_server.access import Route, find_route
from cfmri_server.audit_trail import REFUSED_LOGIN, noted
from cfmri_server.exposure import LOOPBACK_HOSTS, is_loopback
from cfmri_server.jobs import typed
from cfmri_server.problem import (
    ClosedRouteError,
    FieldError,
    ForbiddenError,
    TokensUnusableError,
    TooLargeError,
    UnauthorizedError,
    detail_of,
    response_of,
)
from cfmri_server.tokens import LOCAL, Holder, Role, TokenFile

logger = logging.getLogger("cfmri.guard")

#: Largest request body with files, in bytes.
MAX_BODY_BYTES = int(os.environ.get("CFMRI_MAX_BODY_BYTES", 2 * 2**30))

#: Largest body without files, in bytes: it is held in memory.
MAX_TEXT_BYTES = 2**20


class Guard:
    """ASGI middleware that refuses what must not reach a route.

    Args:
        application: What it guards.
        hosts: Accepted names in the Host header, without port.
        tokens: Accepted tokens; without them everybody on this machine, and nobody else, is let in.
        max_body_bytes: Largest request body with files.
    """

    def __init__(
        self,
        application: ASGIApp,
        hosts: frozenset[str] = LOOPBACK_HOSTS,
        tokens: TokenFile | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.application = application
        self.hosts = hosts
        self.tokens = tokens
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] == "lifespan":
            await self.application(scope, receive, send)
            return
        if scope["type"] != "http":  # there is no route for a WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            limit = self._admit(scope)
        except CfmriError as refusal:
            await response_of(refusal)(scope, receive, send)
            return
        await self._pass_on(limit, scope, receive, send)

    async def _pass_on(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def noting_send(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.application(scope, _counted(receive, limit), noting_send)
        except HTTPException as error:
            await JSONResponse({"detail": error.detail}, error.status_code)(scope, receive, send)
        except Exception as error:  # uvicorn would log its text, which may hold patient data
            failure = typed(error)
            if not answered:
                await response_of(failure)(scope, receive, send)

    def _admit(self, scope: Scope) -> int:
        """Return the largest body that the request may have, in bytes.

        Raises:
            CfmriError: The request must not reach a route.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if re.sub(r":\d+$", "", host) not in self.hosts:
            hint = "Use http://127.0.0.1, or have the name allowed with --allowed-host."
            raise FieldError("This server does not answer to that name.", hint, field="Host")
        found = find_route(scope["method"], scope["path"])
        route, names = found or (None, {})
        self._require_role(scope, headers.get(b"authorization", b""), route)
        if route is None:
            raise ClosedRouteError("This route is closed on a cfmri server.", "See the README of the app.")
        noted(scope).update(names, action=route.action)
        is_form = headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")
        limit = self.max_body_bytes if route.takes_files and is_form else MAX_TEXT_BYTES
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            raise _too_large(limit)
        return limit

    def _require_role(self, scope: Scope, authorization: bytes, route: Route | None) -> None:
        """Check who asks, and note it for the audit log; for a closed route, any holder of a token will do."""
        notes = noted(scope)
        if route:
            notes["route"] = f"{route.method} {route.path}"
            if image := route.image_in(scope.get("query_string", b"")):
                notes["image"] = image
        server = scope.get("server")
        is_exposed = server is not None and not is_loopback(server[0])
        if is_exposed and (self.tokens is None or scope["scheme"] != "https"):
            raise ForbiddenError(
                "Beyond its own machine this server needs tokens and TLS.", "Start it by 'cfmri serve'."
            )
        needed = route.role if route else Role.READER
        if needed is Role.ANYONE:
            return
        holder = LOCAL if self.tokens is None else _holder(self.tokens, authorization, notes)
        notes["who"] = holder.name
        if holder.role < needed:
            notes["action"] = "refused role"
            name = needed.name.lower()
            raise ForbiddenError(f"This needs the role {name}.", f"Your token has the role {holder.role.name.lower()}.")


def _holder(tokens: TokenFile, authorization: bytes, notes: dict[str, object]) -> Holder:
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError("This server asks for an access token.", "Send it as 'Authorization: Bearer TOKEN'.")
    try:
        holder = tokens.holder(token.strip())
    except RequestError as error:
        logger.error("Nobody is let in: %s", error)
        raise TokensUnusableError("Tokens cannot be checked now.", "The server's log says why.") from None
    if holder is None:
        notes["action"] = REFUSED_LOGIN
        raise UnauthorizedError("Nobody holds this access token.", "Ask the server's administrator for one.")
    return holder


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
    hint = "Crop the image, or raise CFMRI_MAX_BODY_BYTES." if limit > MAX_TEXT_BYTES else "Send less text."
    return TooLargeError(f"The request is larger than {limit} bytes.", hint)
