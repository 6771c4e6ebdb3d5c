"""Is an edited volume taken for what was asked for, by a predictor that had no part in the edit?

The measures are functions of predictions (what `cfmri_core.pipeline.prediction.predict_acquisition`
returns), so that edited volumes and real scans under the target's parameters are scored alike: real
scans are the ceiling, since no predictor is right about all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cfmri_core
from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CheckpointError
from cfmri_core.evaluation.statistics import Interval
from cfmri_core.evaluation.summary_table import Cell, SummaryTable
from cfmri_core.models.conditioning import ATTRIBUTES, CATEGORICAL, CONTINUOUS
from cfmri_core.models.iap_predictor import IapPredictor

#: What `predict_acquisition` returns.
Predicted = Mapping[str, Mapping[str, Any]]

#: The published editor: Morão et al., MIDL 2025, Table 5, 50 steps, guidance scale 3 (shares; squared errors in the
#: unit's square) and Table 2 (gains). There single slices with the parameters of another slice of the batch, unchanged
#: ones included; here whole volumes, and only parameters that were to be changed.
PUBLISHED: Mapping[str, float] = {
    "manufacturer_model fooled": 0.858,
    "field_strength_t fooled": 0.769,
    "scan_options fooled": 0.960,
    "flip_angle_deg fooling squared error": 0.282,
    "slice_thickness_mm fooling squared error": 0.190,
    "echo_time_ms fooling squared error": 0.038,
    "repetition_time_ms fooling squared error": 0.207,
    "manufacturer prediction gain": 0.372,
    "manufacturer_model prediction gain": 0.568,
    "field_strength_t prediction gain": 0.254,
}


def scoring_predictor(device: str = "cpu", folder: Path | None = None) -> IapPredictor:
    """Load the predictor that scores edits.

    It is an instrument, not a model under test: it comes from the package whatever models are in use.

    Args:
        device: Torch device.
        folder: Another model folder.

    Raises:
        CheckpointError: There is none.
    """
    shipped = Path(cfmri_core.__file__).parent / "weights" / "scoring_predictor"
    chosen = folder or shipped
    if not chosen.is_dir():
        raise CheckpointError(
            f"There is no scoring predictor in {chosen}.",
            "Train one with 'cfmri train iap-predictor DATA --output DIR --preset scoring' on subjects that no editor "
            "or predictor under test has seen.",
        )
    return IapPredictor.load(chosen, device)


def fooling_score(
    before: Predicted,
    after: Predicted,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    ranges: Mapping[str, tuple[float, float]],
) -> dict[str, float]:
    """Score one edited volume, or one scan under the requested parameters, by predictions.

    Args:
        before: Prediction of the source.
        after: Prediction of the edited volume, or of a scan under the requested parameters.
        factual: How the source was acquired.
        requested: What was asked for; parameters that differ from the factual ones are intervened on.
        ranges: Range of each continuous parameter in its unit (the predictor's ``spec.ranges``).

    Returns:
        For parameters intervened on: ``NAME fooled`` (1 if the requested category is predicted, else
        0), ``NAME prediction gain`` (probability of the requested category after minus before, from
        -1 to 1), and ``NAME fooling squared error`` (of the predicted against the requested value, in
        the unit's square). For the others: ``NAME moved`` (share of the range that the predicted
        value moved; for categories the total variation between the probabilities, 0 to 1). A category
        that the predictor does not know cannot be scored and is left out.

    Source of the gain: Nemirovsky et al., arXiv 2009.05199, as in Morão et al., eq. 9.
    """
    changed = factual.differences(requested)
    scores: dict[str, float] = {}
    for name in ("manufacturer", *ATTRIBUTES):
        if name not in before or name not in after:
            continue
        _, target = changed.get(name, (None, None))
        if name not in changed:
            scores[f"{name} moved"] = _moved(name, before[name], after[name], ranges)
        elif target is not None:
            scores |= _reached(name, before[name], after[name], target)
    return scores


def fooling_table(aggregate: Mapping[str, Mapping[str, Interval]], name: str = "fooling") -> SummaryTable:
    """Lay the scores of several arms beside the published ones.

    Args:
        aggregate: Arm to metric to mean over patients; metrics that are no fooling scores are left out.
        name: Name of the table.
    """
    metrics = dict.fromkeys(metric for values in aggregate.values() for metric in values if is_fooling_metric(metric))
    rows: list[list[Cell]] = [
        [metric, *(values.get(metric) for values in aggregate.values()), PUBLISHED.get(metric)]
        for metric in sorted(metrics, key=_METRICS.index)
    ]
    return SummaryTable(
        name,
        "Judged by the scoring predictor, which no editor has seen. Mean over patients [95 % interval]: share taken "
        "for the target, gain in the target's probability, squared error in the unit's square; for untouched "
        "parameters the share of their range that the prediction moved. The published figures are of single slices of "
        "Duke patients by the predictor the editor came with: the same quantities, not the same task.",
        ["score", *aggregate, "Morão et al., Tables 2 and 5"],
        rows,
    )


def is_fooling_metric(metric: str) -> bool:
    """Whether `fooling_score` gives a metric of that name."""
    return metric in _METRICS


_METRICS = (
    *(f"{name} fooled" for name in ("manufacturer", *CATEGORICAL)),
    *(f"{name} prediction gain" for name in ("manufacturer", *CATEGORICAL)),
    *(f"{name} fooling squared error" for name in CONTINUOUS),
    *(f"{name} moved" for name in ("manufacturer", *ATTRIBUTES)),
)


def _reached(name: str, before: Mapping[str, Any], after: Mapping[str, Any], target: str | float) -> dict[str, float]:
    if name in CONTINUOUS:
        return {f"{name} fooling squared error": (float(after["value"]) - float(target)) ** 2}
    probability = after["probabilities"].get(str(target))
    if probability is None:
        return {}
    gain = float(probability) - float(before["probabilities"][str(target)])
    return {f"{name} fooled": float(after["value"] == target), f"{name} prediction gain": gain}


def _moved(
    name: str, before: Mapping[str, Any], after: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
) -> float:
    if name in CONTINUOUS:
        low, high = ranges[name]
        return abs(float(after["value"]) - float(before["value"])) / (high - low) if high > low else math.nan
    shares = zip(before["probabilities"].values(), after["probabilities"].values(), strict=True)
    return 0.5 * sum(abs(float(first) - float(second)) for first, second in shares)
