"""Any image."""

from __future__ import annotations

from cfmri_core.active_learning.next_case import RANDOM
from lib.activelearning.case_strategy import CaseStrategy


class Random(CaseStrategy):
    """What the others are measured against."""

    name = RANDOM
    summary = "Any image without a label; the seed decides which"
