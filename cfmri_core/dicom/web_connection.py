"""HTTP to one DICOMweb archive: credentials, TLS, and which failures are worth another try."""

from __future__ import annotations

import email.utils
import logging
import netrc
import os
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx

from cfmri_core import __version__
from cfmri_core.errors import RemoteError, RequestError

T = TypeVar("T")

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})
#: Longest pause between two tries, in seconds; an archive that asks for a longer one is left alone.
_LONGEST_PAUSE_S = 60.0
_CREDENTIALS_HINT = (
    "Set CFMRI_PACS_USER and CFMRI_PACS_PASSWORD, or CFMRI_PACS_TOKEN_FILE, or add the host to ~/.netrc."
)

# Their lines hold the address of each request, and with it identifiers of patients' series.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Access:
    """How an archive is reached. Credentials are never part of it: they come from the environment (`Credentials`).

    Attributes:
        url: Root of the DICOMweb service, such as ``http://127.0.0.1:8042/dicom-web``.
        ca: File with the certificates to trust; those of the system if ``None``.
        plain_http: Whether patients' images may travel unencrypted beyond this machine.
        attempts: Most tries of one request.
        pause_s: Pause before the second try, in seconds; it doubles with every further one.
        timeout_s: Longest silence of the archive, in seconds.
    """

    url: str
    ca: Path | None = None
    plain_http: bool = False
    attempts: int = 6
    pause_s: float = 0.5
    timeout_s: float = 60.0
    origin: httpx.URL = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", self._checked())

    @classmethod
    def from_environment(cls, url: str) -> Access:
        """Return the access with what CFMRI_PACS_CA and CFMRI_PACS_PLAIN_HTTP say.

        Raises:
            RequestError: The address cannot be used.
        """
        ca = os.environ.get("CFMRI_PACS_CA")
        return cls(url, Path(ca) if ca else None, os.environ.get("CFMRI_PACS_PLAIN_HTTP", "") in ("1", "true", "yes"))

    @property
    def is_local(self) -> bool:
        """Whether the archive is on this machine."""
        return self.origin.host in LOOPBACK_HOSTS

    @property
    def name(self) -> str:
        """Host and port, for messages."""
        return self.origin.netloc.decode("ascii")

    def _checked(self) -> httpx.URL:
        try:
            url = httpx.URL(self.url.rstrip("/"))
        except (httpx.InvalidURL, TypeError):
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise RequestError(
                "The address of the archive is not usable.", "Give it as https://HOST/PATH, for Orthanc .../dicom-web."
            )
        if url.userinfo:
            raise RequestError("The address of the archive holds a password.", _CREDENTIALS_HINT)
        if url.scheme == "http" and not self.plain_http and url.host not in LOOPBACK_HOSTS:
            raise RequestError(
                f"Plain HTTP to {url.host} would send patients' images unencrypted.",
                "Use https://, or say --plain-http (CFMRI_PACS_PLAIN_HTTP=1) for a network that protects them.",
            )
        return url


class Credentials(httpx.Auth):
    """Who asks, read anew for every request, so that a token that expires can be replaced under a running server.

    The first of these that is there: CFMRI_PACS_TOKEN_FILE, CFMRI_PACS_TOKEN (sent as bearer tokens),
    CFMRI_PACS_USER with CFMRI_PACS_PASSWORD, the host's line in ~/.netrc (or the file named by NETRC).
    """

    def __init__(self, host: str) -> None:
        self._host = host

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Add the header."""
        token, password = self._token(), self._password()
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        elif password:
            yield from httpx.BasicAuth(*password).auth_flow(request)
            return
        yield request

    def _token(self) -> str:
        file = os.environ.get("CFMRI_PACS_TOKEN_FILE")
        if not file:
            return os.environ.get("CFMRI_PACS_TOKEN", "")
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise RemoteError("The file named by CFMRI_PACS_TOKEN_FILE cannot be read.", "Check its path.") from None

    def _password(self) -> tuple[str, str] | None:
        user = os.environ.get("CFMRI_PACS_USER")
        if user:
            return user, os.environ.get("CFMRI_PACS_PASSWORD", "")
        try:
            entry = netrc.netrc(os.environ.get("NETRC")).authenticators(self._host)
        except (OSError, netrc.NetrcParseError):
            return None
        return (entry[0], entry[2] or "") if entry else None


class NotThereError(RemoteError):
    """The archive has nothing of that name."""


class Connection:
    """Requests to one archive; whatever goes wrong is a `RemoteError` that says whether to try again.

    Args:
        access: The archive.
        sleep: Waits between tries.
    """

    def __init__(self, access: Access, sleep: Callable[[float], None] = time.sleep) -> None:
        self.access = access
        self._sleep = sleep
        self._client = httpx.Client(
            auth=Credentials(access.origin.host),
            verify=_tls(access),
            timeout=httpx.Timeout(access.timeout_s, connect=min(10.0, access.timeout_s)),
            trust_env=not access.is_local,  # a proxy is of no use on the way to this machine
            headers={"User-Agent": f"cfmri/{__version__}"},
        )

    def close(self) -> None:
        """Close what is open."""
        self._client.close()

    def get(
        self, path: str, read: Callable[[httpx.Response], T], params: Mapping[str, str | int] | None = None, *,
        accept: str,
    ) -> T:  # fmt: skip
        """GET, as often as it takes; ``read`` takes the answer's body and starts anew with every try."""
        attempt = 1
        while True:
            try:
                return self.get_once(path, read, params, accept=accept)
            except RemoteError as error:
                self.pause(attempt, error)
                attempt += 1

    def get_once(
        self, path: str, read: Callable[[httpx.Response], T], params: Mapping[str, str | int] | None = None, *,
        accept: str,
    ) -> T:  # fmt: skip
        """GET in one try.

        Raises:
            RemoteError: It failed.
        """
        # Wildcards as they are: Orthanc 1.10 takes %2A for the text itself.
        query = "?" + urllib.parse.urlencode(params, quote_via=urllib.parse.quote, safe="*?,:") if params else ""
        request = self._client.build_request("GET", self._url(path) + query, headers={"Accept": accept})
        return self._send(request, read)

    def post(
        self, path: str, content: Iterator[bytes], read: Callable[[httpx.Response], T], headers: Mapping[str, str]
    ) -> T:
        """POST in one try.

        Raises:
            RemoteError: It failed; what was sent may have arrived nevertheless.
        """
        return self._send(self._client.build_request("POST", self._url(path), content=content, headers=headers), read)

    def pause(self, attempt: int, error: RemoteError) -> None:
        """Wait before the next try, or raise the error again if there is to be none.

        The pause doubles with every try and is shortened at random, so that many clients of an archive that
        comes back do not ask in the same moment; it is never shorter than the archive asked for.
        """
        if not error.retryable or attempt >= self.access.attempts or error.retry_after_s > _LONGEST_PAUSE_S:
            raise error
        longest_s = min(self.access.pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
        self._sleep(max(longest_s * random.uniform(0.5, 1.0), error.retry_after_s))  # noqa: S311 - no secret

    def _url(self, path: str) -> str:
        return f"{self.access.origin}{path}"

    def _send(self, request: httpx.Request, read: Callable[[httpx.Response], T]) -> T:
        name = self.access.name
        try:
            response = self._client.send(request, stream=True)
            try:
                _require_success(response, name)
                return read(response)
            finally:
                response.close()
        except httpx.TimeoutException:
            message = f"The archive at {name} did not answer in {self.access.timeout_s:g} s."
            raise RemoteError(message, "Check that it runs and is not overloaded.", retryable=True) from None
        except httpx.TransportError as error:
            raise _transport_error(error, name) from None
        except (httpx.DecodingError, httpx.StreamError):
            raise RemoteError(f"The archive at {name} sent a damaged answer.", "Try again.", retryable=True) from None


def _tls(access: Access) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(access.ca) if access.ca else None)
    except (OSError, ssl.SSLError):
        raise RequestError(f"{access.ca}: no usable certificates.", "Give a PEM file with --ca.") from None


def _require_success(response: httpx.Response, name: str) -> None:
    status = response.status_code
    if response.is_success or (status == 409 and response.request.method == "POST"):
        return  # storing answers 409 with the reasons in the body
    if status in (401, 403):
        raise RemoteError(f"The archive at {name} refuses access (HTTP {status}).", _CREDENTIALS_HINT)
    if status == 404:
        raise NotThereError(
            f"The archive at {name} has nothing there (HTTP 404).", "Check the path: Orthanc's ends in /dicom-web."
        )
    if response.is_redirect:
        raise RemoteError(f"The archive at {name} has moved (HTTP {status}).", "Give its present address.")
    if status in _RETRYABLE_STATUS:
        raise RemoteError(
            f"The archive at {name} is not able to answer now (HTTP {status}).", "Try again later.",
            retryable=True, retry_after_s=_retry_after_s(response),
        )  # fmt: skip
    raise RemoteError(f"The archive at {name} refuses the request (HTTP {status}).", "Its log says why.")


def _retry_after_s(response: httpx.Response) -> float:
    """Return what the header says: seconds, or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("Retry-After", "")
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _transport_error(error: BaseException, name: str) -> RemoteError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return RemoteError(
            f"No trusted TLS connection to the archive at {name}.",
            "Name the file with the hospital's certificates: --ca FILE or CFMRI_PACS_CA.",
        )
    if isinstance(error, httpx.ConnectError):
        return RemoteError(
            f"Nothing answers at {name}.", "Check the address and that the archive runs.", retryable=True
        )
    return RemoteError(f"The connection to the archive at {name} broke off.", "Try again.", retryable=True)
