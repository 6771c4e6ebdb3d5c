"""The image of a little represented acquisition whose segmentation changes much over its counterfactuals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cfmri_core.active_learning.next_case import DISAGREEMENT
from cfmri_core.errors import CfmriError
from lib.activelearning.case_strategy import CaseStrategy
from lib.scoring.counterfactual_disagreement import CounterfactualDisagreement as Scoring


class CounterfactualDisagreement(CaseStrategy):
    """Uses the scores that the scoring method of the same name made with the models in use.

    Args:
        scoring: That scoring method.
    """

    name = DISAGREEMENT
    summary = (
        "Of the images least represented among the labelled ones, one whose segmentation changes much over its "
        "counterfactuals; needs POST /scoring/counterfactual_disagreement after each training, and goes by "
        "acquisition_coverage until then"
    )

    def __init__(self, scoring: Scoring) -> None:
        super().__init__()
        self.scoring = scoring

    def disagreements(self, files: Mapping[str, Path]) -> Mapping[str, float]:
        """Return the scores of the models in use; none where there is no model."""
        try:
            models = self.scoring.model_checksums()
        except (CfmriError, OSError, KeyError, ValueError):
            return {}
        return self.scoring.file.scores(models, files)

    def message(self, chosen_by: str, scored: int, unlabelled: int) -> str:
        """Say when images could not be compared."""
        if chosen_by != self.name:
            return f"No image is scored by the models in use: chosen by {chosen_by}. Start POST /scoring/{self.name}."
        missing = unlabelled - scored
        return f"{missing} images have no score and were not considered." if missing else ""
