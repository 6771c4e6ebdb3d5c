"""What can go wrong on the way to the server and back, and how to mend it. No Slicer, no Qt."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests

#: Kinds of `ServerProblem`. Tests and the panel tell problems apart by these, never by the wording.
ADDRESS, UNREACHABLE, LOST, CERTIFICATE, TIMEOUT = "address", "unreachable", "lost", "certificate", "timeout"
NOT_CFMRI, VERSION, UNAUTHORIZED, TOO_LARGE = "not-cfmri", "version", "unauthorized", "too-large"
REJECTED, NOT_FOUND, BUSY, SERVER, UNREADABLE = "rejected", "not-found", "busy", "server", "unreadable"


class Problem(Exception):
    """A problem that a person can mend: what happened, and the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return (self.message + " " + self.hint).strip()


class Cancelled(Exception):
    """The user cancelled; nothing is wrong."""


class ServerProblem(Problem):
    """The server could not be asked, or did not do what was asked.

    Attributes:
        kind: One of the constants of this module.
        field: The parameter that the server refused, else an empty string.
        value: The value that it refused.
        accepted: What it accepts, in words.
        details: The server's own answer, shortened, for a bug report.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        hint: str = "",
        field: str = "",
        value=None,
        accepted: str = "",
        details: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.field = field
        self.value = value
        self.accepted = accepted
        self.details = details


def problemOfException(error: Exception, address: str) -> ServerProblem:
    """Translate what `requests` raised while talking to ``address``."""
    import requests  # not at file scope: Slicer imports every module at its start

    text = repr(error)
    if isinstance(error, requests.exceptions.SSLError):
        return ServerProblem(
            CERTIFICATE,
            f"The certificate of {address} is not trusted.",
            "Choose the certificate file (CA) that your administrator gave you, under Server > Certificate.",
            details=text,
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return ServerProblem(
            UNREACHABLE, f"The network's proxy did not connect to {address}.", "Check the proxy settings.", details=text
        )
    if isinstance(error, requests.exceptions.ReadTimeout):
        return ServerProblem(
            TIMEOUT,
            f"{address} accepted the request and did not answer in time.",
            "It may be busy with another job: try again, or look at the terminal where `cfmri serve` runs.",
            details=text,
        )
    if isinstance(error, UnicodeError):
        return ServerProblem(UNAUTHORIZED, "The access token has characters that cannot be sent.", "Paste it again.")
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return _lost(address, text)
    if isinstance(error, requests.exceptions.ConnectionError):
        return _problemOfConnection(text, address)
    return ServerProblem(
        ADDRESS, f"'{address}' is not a server address.", "Write it like http://127.0.0.1:8000.", details=text
    )


def _problemOfConnection(text: str, address: str) -> ServerProblem:
    if "BadStatusLine" in text:
        return ServerProblem(
            NOT_CFMRI,
            f"What answers at {address} is not a web server.",
            "Check the port, and whether the address should start with https://.",
            details=text,
        )
    if "Connection aborted" in text or "RemoteDisconnected" in text or "Connection broken" in text:
        return _lost(address, text)
    return ServerProblem(
        UNREACHABLE,
        f"No server answers at {address}.",
        "Start it with `cfmri serve STUDIES` (or `make serve`), then check host name and port.",
        details=text,
    )


def _lost(address: str, text: str) -> ServerProblem:
    return ServerProblem(
        LOST,
        f"The connection to {address} broke off.",
        "The server may have stopped: look at its terminal, start it again, and repeat.",
        details=text,
    )


def problemOfResponse(response: requests.Response, address: str) -> ServerProblem:
    """Translate an answer whose status is not a success."""
    status = response.status_code
    detail = _detailOf(response)
    details = f"HTTP {status}: {response.text[:500]}"
    if status == 422:
        return _rejected(detail, details)
    kind, message, hint = _STATUS.get(status) or (
        SERVER,
        f"The server failed (HTTP {status}).",
        "Look at the terminal where `cfmri serve` runs; `cfmri doctor` tells what is missing there.",
    )
    if status == 409 or status >= 429:
        message = detail.get("message") or message
        hint = detail.get("hint") or hint
    return ServerProblem(kind, message.format(address=address), hint, details=details)


_STATUS = {
    401: (UNAUTHORIZED, "{address} asks for an access token.", "Enter the token under Server, or ask for a valid one."),
    403: (UNAUTHORIZED, "Your access token does not allow this.", "Ask the server's administrator for another token."),
    404: (
        NOT_FOUND,
        "{address} does not know what was asked for.",
        "If the server was restarted meanwhile, repeat; else test the connection.",
    ),
    413: (
        TOO_LARGE,
        "The volume is larger than the server accepts.",
        "Crop it (Crop Volume module), or have the server's upload limit raised.",
    ),
    409: (BUSY, "The server cannot do this now.", "Wait for the running job, or cancel it."),
    429: (BUSY, "The server is busy with another job.", "Wait until it has ended, or stop it, and repeat."),
}


def _rejected(detail: dict, details: str) -> ServerProblem:
    field, value, accepted = str(detail.get("field") or ""), detail.get("value"), str(detail.get("accepted") or "")
    message = detail.get("message") or (
        f"The server refuses {field} = {value!r}." if field else "The server refuses this."
    )
    hint = detail.get("hint") or (f"Accepted: {accepted}." if accepted else "Change the parameters and repeat.")
    return ServerProblem(REJECTED, message, hint, field=field, value=value, accepted=accepted, details=details)


def _detailOf(response: requests.Response) -> dict:
    try:
        detail = response.json().get("detail")
    except (ValueError, AttributeError):
        return {}
    return detail if isinstance(detail, dict) else {"message": detail} if isinstance(detail, str) else {}
