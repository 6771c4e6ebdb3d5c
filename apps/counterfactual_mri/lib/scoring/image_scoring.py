"""The part of every scoring method that is the same: go through images, keep what is found, tell how far it is."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cfmri_server.problem import pathless
from cfmri_server.request_schema import RequestParams, known_params
from cfmri_server.scores import DONE, FAILED, ScoreFile, ScoreWriter
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from cfmri_core.errors import CfmriError
from cfmri_core.models.device import resolved_device

logger = logging.getLogger("cfmri.scoring")

#: Scores one image of the datastore by its id.
Score = Callable[[str], float]


class ImageScoring(ScoringMethod):
    """Scores images one by one. MONAI Label runs it in a process of its own; a scoring that was stopped goes on.

    Attributes:
        name: Name of the method in `/info/`.
        summary: One line.
    """

    name: str
    summary: str

    def __init__(self, models: ServedModels) -> None:
        super().__init__(self.summary)
        self.models = models

    @abstractmethod
    def files(self, datastore: Datastore) -> dict[str, Path]:
        """Return what is to be scored: image id to the file whose change makes its score worthless."""

    @abstractmethod
    def model_checksums(self) -> dict[str, str]:
        """Return the checksum of each model that decides a score, by kind, without reading weights."""

    @abstractmethod
    def prepared(self, datastore: Datastore, device: str) -> Score:
        """Load the models and return what scores an image.

        Raises:
            CfmriError: There is no such model.
        """

    @property
    def file(self) -> ScoreFile:
        """What was found so far."""
        return ScoreFile(self.models.state.scores_file(self.name))

    def info(self) -> dict[str, Any]:
        """Describe the method, and how far its last scoring is."""
        return {"description": self.summary, "progress": self.file.progress()}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score the images that have no score of the models in use, and return counts.

        Raises:
            CfmriError: There is no model; the score file says so.
        """
        device = resolved_device(known_params(RequestParams, request).device)
        writer = ScoreWriter(self.file.path, self.model_checksums(), self.files(datastore))
        try:
            score = self.prepared(datastore, device)
        except CfmriError as error:
            writer.end(FAILED, pathless(error.message, self.models.state.root))
            raise
        for image in writer.missing:
            writer.add(image, _attempt(score, image))
        writer.end(DONE)
        progress = self.file.progress()
        logger.info("%s: %d images scored, %d failed", self.name, progress["scored"], progress["failed"])
        return progress


def _attempt(score: Score, image: str) -> float | None:
    """Score an image; one that cannot be scored must not cost the others theirs."""
    try:
        value = score(image)
    except CfmriError as error:
        logger.warning("An image could not be scored: %s", type(error).__name__)
        return None
    return value if math.isfinite(value) else None
