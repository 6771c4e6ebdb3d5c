"""HTTP client of a cfmri server: standard library and requests, nothing else.

Every call has a timeout, every failure is a `ServerProblem` that says how to mend it. Calls block, so
the panel makes them in a worker thread (see `jobs`); they touch no Slicer object.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Iterator, Mapping
from urllib.parse import quote, urlsplit

from CounterfactualMRILib import problems, schema
from CounterfactualMRILib.multipart import UploadBody, readMultipart
from CounterfactualMRILib.problems import Cancelled, ServerProblem

if TYPE_CHECKING:
    import requests

Report = Callable[..., None]
IsCancelled = Callable[[], bool]

#: Names of the parts of an upload, as in MONAI Label.
IMAGE, MASK = "file", "label"
_PIECE_BYTES = 65536


def reportNothing(step: int, steps: int, message: str, detail: Any = None) -> None:
    """Stand for a caller who does not watch."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds: for a connection, for a short answer, for a whole volume each way."""

    connect: float = 3.05
    answer: float = 20.0
    transfer: float = 120.0
    poll: float = 0.2


@dataclass(frozen=True)
class JobStatus:
    """State of a job on the server: queued, running, done, failed or cancelled; step k of n."""

    state: str
    step: int
    steps: int
    message: str
    error: dict | None


@dataclass(frozen=True)
class Result:
    """What an inference returned.

    Attributes:
        values: The JSON part.
        images: Each image by the name of its part ("image", "uncertainty"), saved as NIfTI.
    """

    values: dict[str, Any]
    images: Mapping[str, Path] = field(default_factory=dict)


def mendedAddress(address: str) -> str:
    """Return the address as it should have been written.

    ``localhost:8000`` gets its http://; 0.0.0.0, on which servers *listen*, becomes 127.0.0.1.

    Raises:
        ServerProblem: There is no host name in it, or the scheme is not http or https.
    """
    text = address.strip()
    text = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https") or " " in text:
        raise ServerProblem(
            problems.ADDRESS, f"'{address}' is not a server address.", "Write it like http://127.0.0.1:8000."
        )
    host = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104
    path = parts.path.rstrip("/")
    path = path[: -len("/info")] if path.endswith("/info") else path
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def isLoopback(address: str) -> bool:
    """Tell whether the server runs on this computer, so that no image leaves it."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Client:
    """Talks to one server.

    Args:
        address: ``http(s)://host:port``; a missing ``http://`` is added.
        token: Bearer token, kept in memory only.
        caFile: File with the certificate authority to trust, for a server with a certificate of its own.
    """

    def __init__(self, address: str, token: str = "", caFile: str = "", timeouts: Timeouts = Timeouts()) -> None:
        import requests  # not at file scope: Slicer imports every module at its start

        self.address = mendedAddress(address)
        self.timeouts = timeouts
        self._session = requests.Session()
        # A proxy cannot reach this computer's own loopback, whatever the environment says.
        self._session.trust_env = not isLoopback(self.address)
        # Without an `auth` requests would look into ~/.netrc, and put what it finds in the place of our header.
        self._session.auth = _authorizing(token)
        # Named at every request: a REQUESTS_CA_BUNDLE in the environment would outrank the session's.
        self._trusted = {"verify": caFile} if caFile else {}

    def describe(self) -> schema.Server:
        """Return what the server offers, from GET /info/.

        Raises:
            ServerProblem: Unreachable, not a cfmri server, another version, no permission.
        """
        try:
            return schema.parseInfo(self.ask("GET", "/info/"))
        except schema.SchemaError as error:
            raise self._problemOfSchema(error) from error
        except ServerProblem as problem:
            if problem.kind in (problems.NOT_FOUND, problems.UNREADABLE):
                raise self._notCfmri(problem.details) from problem
            raise

    def health(self) -> dict[str, Any]:
        """Return the answer of GET /healthz."""
        return self.ask("GET", "/healthz")

    def run(
        self,
        model: str,
        parameters: Mapping[str, Any],
        files: Mapping[str, Path],
        folder: Path,
        report: Report = reportNothing,
        isCancelled: IsCancelled = lambda: False,
    ) -> Result:
        """Send a volume, wait for the model's result, and save its images in ``folder``.

        Args:
            model: Name of the model.
            parameters: What the model is asked for, by the names of its parameter list.
            files: NIfTI files by the name of their part: `IMAGE`, and `MASK` where the model asks for a region. They
                leave under random names, and are deleted as soon as they are sent.
            folder: Where the result's images are written.
            report: Called with (step, steps, message); steps is 0 while their number is unknown.
            isCancelled: Asked often; when true the server's job is cancelled too.

        Raises:
            Cancelled: ``isCancelled`` became true.
            ServerProblem: Anything else that stopped it.
        """
        jobId = self.submit(model, parameters, files, report, isCancelled)
        with contextlib.suppress(OSError):  # what cannot be deleted yet goes with its folder
            for path in files.values():
                path.unlink()
        try:
            self._waitFor(jobId, report, isCancelled)
        except Cancelled:
            self._cancelQuietly(jobId)
            raise
        return self.result(jobId, folder, report, isCancelled)

    def submit(
        self,
        model: str,
        parameters: Mapping[str, Any],
        files: Mapping[str, Path],
        report: Report,
        isCancelled: IsCancelled,
    ) -> str:
        """Start a job and return its id."""

        def onSent(sent: int, total: int) -> None:
            if isCancelled():
                raise Cancelled
            report(sent, total, f"Sending {sent / 1e6:.1f} of {total / 1e6:.1f} MB")

        body = UploadBody(json.dumps(dict(parameters)), files, onSent)
        headers = {"Content-Type": body.contentType}
        answer = self.ask("POST", f"/jobs/{quote(model)}", self.timeouts.transfer, data=body, headers=headers)
        if not isinstance(answer.get("id"), str):
            raise self.unreadable("The server accepted the job and gave no id for it.", str(answer))
        return answer["id"]

    def jobStatus(self, jobId: str) -> JobStatus:
        """Return the state of a job."""
        answer = self.ask("GET", f"/jobs/{quote(jobId)}")
        try:
            return JobStatus(
                state=str(answer["state"]),
                step=int(answer.get("step") or 0),
                steps=int(answer.get("steps") or 0),
                message=str(answer.get("message") or ""),
                error=answer["error"] if isinstance(answer.get("error"), dict) else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self.unreadable("The server's report on the job cannot be read.", str(answer)) from error

    def result(
        self,
        jobId: str,
        folder: Path,
        report: Report = reportNothing,
        isCancelled: IsCancelled = lambda: False,
    ) -> Result:
        """Fetch the result of a job that is done; its images are written into ``folder``."""
        response = self.request("GET", f"/jobs/{quote(jobId)}/result", self.timeouts.transfer, stream=True)
        contentType = response.headers.get("Content-Type", "")
        paths: dict[str, Path] = {}

        def sink(name: str) -> BinaryIO:
            paths[name] = folder / f"{uuid.uuid4().hex}.nii"  # not under the server's file name
            return paths[name].open("wb")

        pieces = self.pieces(response, report, isCancelled)
        try:
            if contentType.startswith("application/json"):
                return Result(_objectOf(json.loads(b"".join(pieces))))
            readMultipart(contentType, pieces, sink)
            return Result(_objectOf(json.loads(paths.pop("params").read_bytes())), paths)
        except (ValueError, KeyError) as error:
            raise self.unreadable("The server's result cannot be read.", str(error)) from error

    def pieces(self, response: requests.Response, report: Report, isCancelled: IsCancelled) -> Iterator[bytes]:
        """Yield the body of an answer that was asked for with ``stream``, piece by piece.

        Raises:
            Cancelled: ``isCancelled`` became true.
            ServerProblem: The connection broke off.
        """
        total, received = int(response.headers.get("Content-Length") or 0), 0
        try:
            with response:
                for piece in response.iter_content(_PIECE_BYTES):
                    if isCancelled():
                        raise Cancelled
                    received += len(piece)
                    report(received, total, f"Receiving {received / 1e6:.1f} of {total / 1e6:.1f} MB")
                    yield piece
        except OSError as error:  # every RequestException is an OSError
            raise problems.problemOfException(error, self.address) from error

    def cancel(self, jobId: str) -> None:
        """Cancel a job."""
        self.request("DELETE", f"/jobs/{quote(jobId)}")

    def ask(self, method: str, path: str, timeout: float | None = None, **arguments: Any) -> dict[str, Any]:
        """Make a request and return the JSON object that the server answers with; see `request`."""
        response = self.request(method, path, timeout, **arguments)
        try:
            return _objectOf(response.json())
        except ValueError as error:
            raise self.unreadable(f"The answer to {path.split('?')[0]} is not JSON.", response.text[:500]) from error

    def request(self, method: str, path: str, timeout: float | None = None, **arguments: Any) -> requests.Response:
        """Make a request and return the server's answer.

        Args:
            method: GET, POST, PUT or DELETE.
            path: With its query.
            timeout: Longest silence of the server in seconds, if other than for a short answer.
            arguments: As `requests` takes them.

        Raises:
            ServerProblem: No answer, or one that is not a success.
        """
        limits = (self.timeouts.connect, timeout or self.timeouts.answer)
        url = self.address + path
        try:
            response = self._session.request(
                method, url, timeout=limits, allow_redirects=False, **self._trusted, **arguments
            )
        except (OSError, UnicodeError) as error:  # every RequestException is an OSError
            raise problems.problemOfException(error, self.address) from error
        if 300 <= response.status_code < 400:
            raise self._notCfmri(f"HTTP {response.status_code} to {response.headers.get('Location', '')}")
        if response.status_code >= 400:
            raise problems.problemOfResponse(response, self.address)
        return response

    def unreadable(self, message: str, details: str) -> ServerProblem:
        """Return the problem of an answer that is not what was agreed."""
        return ServerProblem(
            problems.UNREADABLE, message, "Check that server and extension are of the same release.", details=details
        )

    def _waitFor(self, jobId: str, report: Report, isCancelled: IsCancelled) -> None:
        while True:
            if isCancelled():
                raise Cancelled
            status = self.jobStatus(jobId)
            if status.state == "done":
                return
            if status.state == "failed":
                raise _problemOfJob(status)
            if status.state == "cancelled":
                raise ServerProblem(problems.SERVER, "The job was cancelled on the server.", "Start it again.")
            message = (status.message or status.state).capitalize()
            message += f", step {status.step} of {status.steps}" if status.steps else ""
            report(status.step, status.steps, message)
            time.sleep(self.timeouts.poll)

    def _cancelQuietly(self, jobId: str) -> None:
        try:
            self.cancel(jobId)
        except ServerProblem:
            # The user has already let go of the job; a server that is gone has nothing left to cancel.
            return

    def _problemOfSchema(self, error: schema.SchemaError) -> ServerProblem:
        if error.apiVersion is None:
            return self._notCfmri(str(error))
        older = "server" if error.apiVersion < schema.API_VERSION else "extension"
        return ServerProblem(problems.VERSION, str(error), f"Update the {older}.")

    def _notCfmri(self, details: str) -> ServerProblem:
        return ServerProblem(
            problems.NOT_CFMRI,
            f"What answers at {self.address} is not a cfmri server.",
            "Check the port; the server is started with `cfmri serve STUDIES`.",
            details=details,
        )


def _authorizing(token: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Return what puts the token, if there is one, into a request."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def _objectOf(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _problemOfJob(status: JobStatus) -> ServerProblem:
    error = status.error or {}
    return ServerProblem(
        problems.REJECTED if error.get("field") else problems.SERVER,
        str(error.get("message") or status.message or "The job failed on the server."),
        str(error.get("hint") or "Look at the terminal where `cfmri serve` runs."),
        field=str(error.get("field") or ""),
        value=error.get("value"),
        accepted=str(error.get("accepted") or ""),
        details=json.dumps(error)[:500],
    )
