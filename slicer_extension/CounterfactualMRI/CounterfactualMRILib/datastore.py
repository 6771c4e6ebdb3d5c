"""The server's images and labels: which to label next, fetch an image, store a label. Standard library only."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Mapping
from urllib.parse import quote, urlencode

from CounterfactualMRILib import problems
from CounterfactualMRILib.client import Client, IsCancelled, Report, reportNothing
from CounterfactualMRILib.multipart import UploadBody
from CounterfactualMRILib.problems import Cancelled, ServerProblem
from CounterfactualMRILib.schema import Counts, parseCounts

#: Tag of labels that people have checked; the server trains on these.
FINAL = "final"


class Datastore:
    """The datastore of one server; image ids are the server's own.

    Args:
        client: Of the server.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def counts(self) -> Counts:
        """Return how far labelling is."""
        answer = self._client.ask("GET", "/datastore/")
        counts = parseCounts(answer)
        if counts is None:
            raise self._client.unreadable("The server's count of labels cannot be read.", str(answer))
        return counts

    def images(self) -> list[str]:
        """Return the ids of all images."""
        objects = self._client.ask("GET", "/datastore/?output=all").get("objects")
        return sorted(objects) if isinstance(objects, dict) else []

    def next(self, strategy: str) -> tuple[str | None, str]:
        """Return the image that a strategy wants labelled next, ``None`` if nothing is left; and what it says of it."""
        timeout = self._client.timeouts.transfer  # a strategy may look at many images before it answers
        answer = self._client.ask("POST", f"/activelearning/{quote(strategy)}", timeout, json={})
        if not answer:
            return None, ""
        if not isinstance(answer.get("id"), str):
            raise self._client.unreadable("The server named no image.", str(answer))
        return answer["id"], str(answer.get("message") or "")

    def acquisition(self, imageId: str) -> dict[str, Any]:
        """Return how an image was acquired, by parameter name; empty where the server does not know."""
        known = self._client.ask("GET", _path("/datastore/image/info", image=imageId)).get("acquisition")
        return known if isinstance(known, dict) else {}

    def fetch(
        self, imageId: str, folder: Path, report: Report = reportNothing, isCancelled: IsCancelled = lambda: False
    ) -> Path:
        """Download an image into ``folder``.

        Raises:
            Cancelled: ``isCancelled`` became true.
            ServerProblem: There is no such image, or the connection broke off.
        """
        path = _path("/datastore/image", image=imageId)
        response = self._client.request("GET", path, self._client.timeouts.transfer, stream=True)
        target = folder / f"{uuid.uuid4().hex}.nii"
        with target.open("wb") as file:
            for piece in self._client.pieces(response, report, isCancelled):
                file.write(piece)
        return target

    def store(
        self,
        imagePath: Path,
        acquisition: Mapping[str, Any],
        report: Report = reportNothing,
        isCancelled: IsCancelled = lambda: False,
    ) -> str:
        """Store an image on the server under a random id, with how it was acquired, and return the id."""
        imageId, known = uuid.uuid4().hex, {"acquisition": dict(acquisition)}
        self._put(_path("/datastore/image", image=imageId), "file", imagePath, known, report, isCancelled)
        return imageId

    def label(
        self,
        imageId: str,
        labelPath: Path,
        report: Report = reportNothing,
        isCancelled: IsCancelled = lambda: False,
    ) -> None:
        """Store the final label of an image, in place of an earlier one."""
        self._put(_path("/datastore/label", image=imageId, tag=FINAL), "label", labelPath, {}, report, isCancelled)

    def _put(
        self, path: str, field: str, file: Path, parameters: dict, report: Report, isCancelled: IsCancelled
    ) -> None:
        def onSent(sent: int, total: int) -> None:
            if isCancelled():
                raise Cancelled
            report(sent, total, f"Sending {sent / 1e6:.1f} of {total / 1e6:.1f} MB")

        body = UploadBody(json.dumps(parameters), {field: file}, onSent)
        headers = {"Content-Type": body.contentType}
        try:
            self._client.request("PUT", path, self._client.timeouts.transfer, data=body, headers=headers)
        except ServerProblem as problem:
            if problem.kind == problems.NOT_FOUND:
                hint = "It may serve other studies by now: ask for the next case."
                raise ServerProblem(problem.kind, "The server does not know this image.", hint) from problem
            raise


def _path(path: str, **query: str) -> str:
    return f"{path}?{urlencode(query)}"
