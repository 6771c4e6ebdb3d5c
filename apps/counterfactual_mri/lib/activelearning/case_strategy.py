"""The part of every strategy that is the same: gather the cases, choose, and say why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_server.request_schema import NextCaseParams, known_params
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.active_learning.next_case import Case, next_case
from cfmri_core.errors import CfmriError


class CaseStrategy(Strategy):
    """Chooses among the images without a final label; answers at once, because it computes no image.

    Attributes:
        name: One of `cfmri_core.active_learning.next_case.STRATEGIES`.
        summary: One line.
    """

    name: str
    summary: str

    def __init__(self) -> None:
        super().__init__(self.summary)

    def disagreements(self, files: Mapping[str, Path]) -> Mapping[str, float]:  # noqa: ARG002
        """Return what is known of how far the segmenter in use disagrees with itself, by image id."""
        return {}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the image to label next and why, or ``None`` if none is left."""
        params = known_params(NextCaseParams, request)
        files = {image: Path(datastore.get_image_uri(image)) for image in datastore.list_images()}
        known = self.disagreements(files)
        cases = {image: Case(image, _acquisition(datastore, image), known.get(image)) for image in files}
        unlabelled = [cases[image] for image in datastore.get_unlabeled_images() if image in cases]
        labelled = [cases[image] for image in datastore.get_labeled_images() if image in cases]
        open_ = [case for case in unlabelled if case.name not in params.exclude]
        choice = next_case(self.name, open_, labelled, params.seed)
        if choice is None:
            return None
        scored = sum(case.disagreement is not None for case in open_)
        return {
            "id": choice.name,
            "weight": choice.value,
            "chosen_by": choice.strategy,
            "unlabeled": len(open_),
            "scored": scored,
            "message": self.message(choice.strategy, scored, len(open_)),
        }

    def message(self, chosen_by: str, scored: int, unlabelled: int) -> str:  # noqa: ARG002
        """Say what a user should know of the choice."""
        return ""


def _acquisition(datastore: Datastore, image: str) -> AcquisitionParameters:
    """Return how an image was acquired, as far as its info says; one of an archive need not be here for that."""
    known = datastore.get_image_info(image).get("acquisition")
    try:
        return AcquisitionParameters().replaced(known if isinstance(known, Mapping) else {})
    except CfmriError:
        return AcquisitionParameters()
