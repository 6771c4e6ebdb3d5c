"""What the editor is to reach, declared before the runs, and whether the result files show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cfmri_core.evaluation.fooling import PUBLISHED
from cfmri_core.evaluation.result_file import Aggregate
from cfmri_core.models.conditioning import CATEGORICAL, CONTINUOUS

UNPAIRED_ARMS, PAIRS_ARMS = ("inversion",), ("fast", "fast, noise removed")
#: Noise tells scanners apart: edits that keep the source's are judged beside those that bring it to the target's level.
FOOLING_ARMS = ("inversion", "fast", "fast, noise scaled", "fast, noise renewed")
#: The same subject really scanned with that one parameter changed: what it misses tells of the judge, not of an edit.
REFERENCE_ARM = "second scan"
CROSS_VENDOR, DECORRELATED, SINGLE = "cross-vendor", "decorrelated", "single "


@dataclass(frozen=True)
class Aim:
    """One figure to reach.

    Attributes:
        text: What is asked for.
        arms: Arms it is asked of.
        metric: Which figure; of several the worst counts.
        low: Smallest value that reaches it.
        high: Largest value that reaches it.
        kind: Kind of cases, or the beginning of several kinds' names; the worst of them counts.
        beyond: Arm whose mean is subtracted first.
    """

    text: str
    arms: Sequence[str]
    metric: str | tuple[str, ...]
    low: float = -float("inf")
    high: float = float("inf")
    kind: str = CROSS_VENDOR
    beyond: str = ""


_BOTH = (*UNPAIRED_ARMS, *PAIRS_ARMS)
AIMS = (
    Aim("change recovered at least 0.90", UNPAIRED_ARMS, "slope_noise_free", 0.90),
    Aim("PSNR at least 8 dB above the unedited source", UNPAIRED_ARMS, "psnr_db", 8, beyond="source"),
    Aim("PSNR at least 6 dB above the published loop", UNPAIRED_ARMS, "psnr_db", 6, beyond="paper"),
    Aim("at most 40 network evaluations a slice", UNPAIRED_ARMS, "evaluations_per_slice", high=40),
    Aim("change recovered at least 0.95", PAIRS_ARMS, "slope_noise_free", 0.95),
    Aim("PSNR at least 12 dB above the unedited source", PAIRS_ARMS, "psnr_db", 12, beyond="source"),
    Aim("SSIM to the truth at least 0.95", PAIRS_ARMS, "ssim", 0.95),
    Aim("gradient orientation agrees with the source as the truth's does, within 1 %", _BOTH,
        "gradient_to_source_ratio", 0.99, 1.01),
    Aim("slice-to-slice jitter within 10 % of the truth's", _BOTH, "z_jitter_ratio", 0.9, 1.1),
    Aim("there and back at least 40 dB", _BOTH, "there_and_back_db", 40),
    Aim("decorrelated grid: change recovered at least 0.7", _BOTH, "slope_noise_free", 0.7, kind=DECORRELATED),
    Aim("each parameter alone: change recovered at least 0.8", _BOTH, "slope_noise_free", 0.8, kind=SINGLE),
    Aim("taken for what was asked for: at least 95 % in each category", FOOLING_ARMS,
        tuple(f"{name} fooled" for name in CATEGORICAL), 0.95),
    *(Aim(f"{metric} at most half the paper's", FOOLING_ARMS, metric, high=PUBLISHED[metric] / 2)
      for metric in PUBLISHED if metric.endswith("squared error")),
    *(Aim(f"{metric} above the paper's", FOOLING_ARMS, metric, PUBLISHED[metric])
      for metric in PUBLISHED if metric.endswith("gain")),
    Aim("untouched parameters: what is seen moves by less than 5 % of the range", (*FOOLING_ARMS, REFERENCE_ARM),
        tuple(f"{name} moved" for name in CONTINUOUS), high=0.05, kind=SINGLE),
)  # fmt: skip


def aim_rows(aggregate: Aggregate, written: Callable[[float], str]) -> list[list[str]]:
    """Return aim, arm, what was reached, and whether that is enough; aims without figures are left out."""
    rows = []
    for aim in AIMS:
        for arm in aim.arms:
            metrics = (aim.metric,) if isinstance(aim.metric, str) else aim.metric
            kinds = {kind: arms for kind, arms in aggregate.items() if _is_of(kind, aim.kind)}
            found = {
                (kind, metric): _reached(aim, arms, arm, metric) for kind, arms in kinds.items() for metric in metrics
            }
            values = {where: value for where, value in found.items() if value is not None}
            if not values:
                continue
            (kind, metric), value = min(values.items(), key=lambda item: _margin(aim, item[1]))
            named = [kind.removeprefix(SINGLE)] * (len(kinds) > 1) + [metric] * (len(metrics) > 1)
            which = f" ({', '.join(named)})" if named else ""
            rows.append([aim.text, arm, written(value) + which, "yes" if _margin(aim, value) >= 0 else "**no**"])
    return rows


def _is_of(kind: str, wanted: str) -> bool:
    return kind.startswith(wanted) if wanted.endswith(" ") else kind == wanted


def _reached(aim: Aim, arms: Mapping[str, Mapping[str, Mapping[str, Any]]], arm: str, metric: str) -> float | None:
    value = arms.get(arm, {}).get(metric, {}).get("mean")
    if value is None or not aim.beyond:
        return value
    other = arms.get(aim.beyond, {}).get(metric, {}).get("mean")
    return None if other is None else value - other


def _margin(aim: Aim, value: float) -> float:
    """How far a value lies inside the bounds; negative outside."""
    return min(value - aim.low, aim.high - value)
