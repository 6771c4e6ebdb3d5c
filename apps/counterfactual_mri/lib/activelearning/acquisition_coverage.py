"""The image whose acquisition is least like those of the labelled ones."""

from __future__ import annotations

from cfmri_core.active_learning.next_case import COVERAGE
from lib.activelearning.case_strategy import CaseStrategy


class AcquisitionCoverage(CaseStrategy):
    """Needs no model: image acquisition parameters from the sidecars alone."""

    name = COVERAGE
    summary = "The image whose acquisition parameters are least represented among the labelled images"
