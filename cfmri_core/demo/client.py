"""What a client of the server does, in few lines of HTTP: the same requests that the Slicer module sends."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from cfmri_core.errors import RemoteError
from cfmri_core.io.atomic import atomic_file
from cfmri_core.io.nifti import read_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume

_POLL_S = 0.5
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What an inference returned.

    Attributes:
        params: The JSON part.
        image: Content of the image file, or ``None``.
    """

    params: dict[str, Any]
    image: bytes | None


class Client:
    """Talk to one server.

    Args:
        address: For example ``http://127.0.0.1:8000``.
        transport: Another way to send requests, for tests.
    """

    def __init__(self, address: str, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=address, timeout=_TIMEOUT_S, transport=transport)

    def info(self) -> dict[str, Any]:
        """Return models, trainers and their parameters."""
        return cast(dict[str, Any], self._json("GET", "/info/"))

    def infer(
        self,
        model: str,
        image: Path,
        params: Mapping[str, Any],
        progress: Progress = silent,
        label: Path | None = None,
    ) -> Answer:
        """Run a model on an image file as a job, following its progress.

        Args:
            model: Name of the model.
            image: NIfTI file.
            params: What is asked of it.
            progress: Called with the job's progress.
            label: Mask of the region, for a model that asks for one.

        Raises:
            RemoteError: The server refused, the job failed, or the connection broke.
        """
        with contextlib.ExitStack() as opened:
            parts = {"file": image, **({} if label is None else {"label": label})}
            files = {part: (path.name, opened.enter_context(path.open("rb"))) for part, path in parts.items()}
            response = self._send("POST", f"/jobs/{model}", files=files, data={"params": json.dumps(params)})
        job = response.json()["id"]
        self._follow(job, progress)
        return parse_answer(self._send("GET", f"/jobs/{job}/result"))

    def train(self, model: str, params: Mapping[str, Any], progress: Progress = silent) -> dict[str, Any]:
        """Retrain a model on the server's labelled studies and wait until it is published; return the last progress.

        Raises:
            RemoteError: The training failed.
        """
        self._send("POST", f"/train/{model}", json=dict(params))
        while self._is_training():
            state = self._training_progress(model)
            progress(int(state["epoch"]), int(state["epochs"]), f"training: {state.get('message', '')}")
            time.sleep(2 * _POLL_S)
        state = self._training_progress(model)
        if state["state"] != "done":
            raise RemoteError(f"Training of {model} {state['state']}: {state.get('message')}.", "See the server's log.")
        return state

    def _training_progress(self, model: str) -> dict[str, Any]:
        return cast(dict[str, Any], self._json("GET", f"/train/progress/{model}"))

    def _is_training(self) -> bool:
        return self._http.get("/train/", params={"check_if_running": "true"}).is_success

    def _follow(self, job: str, progress: Progress) -> None:
        while True:
            status = self._json("GET", f"/jobs/{job}")
            progress(status["step"], status["steps"], f"{status['model']}: {status['message']}")
            if status["state"] == "done":
                return
            if status["state"] in ("failed", "cancelled"):
                detail = status.get("error") or {}
                raise RemoteError(f"The job ended as {status['state']}: {detail.get('message', 'no reason given')}")
            time.sleep(_POLL_S)

    def _json(self, method: str, path: str) -> Any:
        return self._send(method, path).json()

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **content)
        except httpx.TransportError as error:
            raise RemoteError(f"{method} {path}: {error}.", "Is the server still running?", retryable=True) from error
        if response.is_success:
            return response
        raise RemoteError(f"{method} {path} gave {response.status_code}: {_detail(response)}")


def written_image(answer: Answer, path: Path) -> Volume:
    """Keep an answer's image as a file, and read it.

    Raises:
        RemoteError: There is none.
    """
    if answer.image is None:
        raise RemoteError(f"The server sent no image for {path.name}.")
    with atomic_file(path) as partial:
        partial.write_bytes(answer.image)
    return read_nifti(path)


def parse_answer(response: httpx.Response) -> Answer:
    """Take a result apart: JSON alone, or multipart/form-data with the parts ``params`` and ``image``.

    Raises:
        RemoteError: It is neither.
    """
    kind = response.headers.get("content-type", "")
    if kind.startswith("application/json"):
        return Answer(response.json(), None)
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + response.content
    )
    parts = {
        part.get_param("name", header="content-disposition"): part for part in message.walk() if not part.is_multipart()
    }
    if "params" not in parts:
        raise RemoteError(f"The server answered with {kind or 'no content type'} instead of a result.")
    params = json.loads(cast(bytes, parts["params"].get_payload(decode=True)))
    image = parts.get("image") or parts.get("file")
    return Answer(params, cast(bytes, image.get_payload(decode=True)) if image is not None else None)


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
    return (
        " ".join(str(detail.get(key, "")) for key in ("message", "hint")) if isinstance(detail, dict) else str(detail)
    )
