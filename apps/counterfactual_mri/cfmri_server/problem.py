"""How a refusal looks on the wire: ``{"detail": {"field", "value", "accepted", "message", "hint"}}``."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from cfmri_core.errors import CfmriError, RequestError

#: Longest echo of a refused value; what a client sent is returned to it, but never megabytes of it.
_LONGEST_VALUE = 200


class FieldError(RequestError):
    """One field of a request cannot be accepted."""

    def __init__(
        self, message: str, hint: str = "", *, field: str = "", value: object = None, accepted: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.field = field
        self.value = value
        self.accepted = accepted


class NotFoundError(FieldError):
    """A model, image, session or job of that name does not exist."""

    http_status = 404


class UnauthorizedError(RequestError):
    """The request carries no token, or one that nobody holds."""

    http_status = 401


class ForbiddenError(RequestError):
    """The holder of the token has too small a role."""

    http_status = 403


class TokensUnusableError(CfmriError):
    """The token file was made unreadable while the server runs; nobody is let in."""

    http_status = 503


class ClosedRouteError(RequestError):
    """A route of MONAI Label that this server does not offer."""

    http_status = 403


class TooLargeError(RequestError):
    """A request body or an image is larger than the server accepts."""

    http_status = 413


class NotReadyError(RequestError):
    """The result of a job is asked for before there is one."""

    http_status = 409


class BusyError(CfmriError):
    """The queue is full; try again later.

    Attributes:
        retry_after_s: When to try again, in seconds.
    """

    http_status = 503

    def __init__(self, message: str, hint: str = "", *, retry_after_s: int = 5) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


@contextlib.contextmanager
def nameless(folder: Path) -> Iterator[None]:
    """Raise errors without the names of files in a folder: an image's name may be a patient's."""
    try:
        yield
    except CfmriError as error:
        named = re.compile(re.escape(f"{folder}/") + ".*?(?=: |$)", re.DOTALL)
        error.message, error.hint = (named.sub("the image", text) for text in (error.message, error.hint))
        error.message = error.message[:1].upper() + error.message[1:]
        raise


def pathless(text: str, *folders: Path) -> str:
    """Return a text without paths of the server.

    Args:
        text: What is to be told to clients.
        folders: Known ones, whose names may hold blanks.
    """
    for folder in folders:
        text = text.replace(str(folder), "")
    return re.sub(r"(?<!\w)/[^\s:]+", "a file", text)


def detail_of(error: CfmriError) -> dict[str, Any]:
    """Return the body's ``detail`` for an error."""
    detail = {
        "field": str(getattr(error, "field", "")),
        "value": shortened(getattr(error, "value", None)),
        "accepted": str(getattr(error, "accepted", "")),
        "message": error.message,
        "hint": error.hint,
    }
    # JSON from a client may hold halves of characters, which no answer can.
    return {
        name: value.encode(errors="replace").decode() if isinstance(value, str) else value
        for name, value in detail.items()
    }


def body_of(error: CfmriError) -> dict[str, Any]:
    """Return the JSON body for an error."""
    return {"detail": detail_of(error)}


def headers_of(error: CfmriError) -> dict[str, str]:
    """Return the extra response headers for an error."""
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(error.retry_after_s)} if isinstance(error, BusyError) else {}


def response_of(error: CfmriError) -> JSONResponse:
    """Return the answer for an error."""
    return JSONResponse(body_of(error), error.http_status, headers_of(error))


def shortened(value: object) -> object:
    """Return a value safe to echo as JSON: numbers and short text as they are, the rest cut."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"
