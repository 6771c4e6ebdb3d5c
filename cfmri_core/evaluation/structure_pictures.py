"""Pictures of structure edits for the report."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cfmri_core.evaluation.figures import comparison_figure, difference_figure, difference_limit, oriented_slice
from cfmri_core.evaluation.structure_case import StructureCase
from cfmri_core.volume import Volume


def case_pictures(case: StructureCase, results: Mapping[str, Volume]) -> list[tuple[str, str]]:
    """Return caption and picture of the source, the simulated truth and some results, and of what each changed."""
    source = case.patient.volume
    per_slice = (case.patient.labels.voxels == 2).sum(axis=(0, 1))
    k = int(np.argmax(per_slice))
    shown = {"source": source, "simulated truth": case.truth, **results}
    low, high = np.percentile(source.voxels, [1, 99.7])
    asked = f"Fibroglandular share {100 * case.change:+g} %"
    images = comparison_figure(
        {name: oriented_slice(volume, k) for name, volume in shown.items()}, (float(low), float(high)), "scanner units"
    )
    changes = {
        name: source.with_voxels(volume.voxels.astype(np.float32) - source.voxels)
        for name, volume in shown.items()
        if name != "source"
    }
    limit = difference_limit([volume.voxels for volume in changes.values()], 0.998)
    differences = difference_figure(
        {name: oriented_slice(volume, k) for name, volume in changes.items()}, limit, "scanner units"
    )
    return [(f"{asked}.", images), (f"{asked}: what changed (the truth has no noise, the source has).", differences)]
