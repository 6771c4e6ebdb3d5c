"""What the editor is to reach, declared before the runs, and whether the result files show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cfmri_core.evaluation.result_file import Aggregate

UNPAIRED_ARMS, PAIRS_ARMS = ("inversion",), ("fast", "fast, noise removed")
CROSS_VENDOR, DECORRELATED, SINGLE = "cross-vendor", "decorrelated", "single "


@dataclass(frozen=True)
class Aim:
    """One figure to reach.

    Attributes:
        text: What is asked for.
        arms: Arms it is asked of.
        metric: Which figure.
        low: Smallest value that reaches it.
        high: Largest value that reaches it.
        kind: Kind of cases, or the beginning of several kinds' names; the worst of them counts.
        beyond: Arm whose mean is subtracted first.
    """

    text: str
    arms: Sequence[str]
    metric: str
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
)  # fmt: skip


def aim_rows(aggregate: Aggregate, written: Callable[[float], str]) -> list[list[str]]:
    """Return aim, arm, what was reached, and whether that is enough; aims without figures are left out."""
    rows = []
    for aim in AIMS:
        for arm in aim.arms:
            found = {kind: _reached(aim, arms, arm) for kind, arms in aggregate.items() if _is_of(kind, aim.kind)}
            values = {kind: value for kind, value in found.items() if value is not None}
            if not values:
                continue
            kind, value = min(values.items(), key=lambda item: _margin(aim, item[1]))
            which = f" ({kind.removeprefix(SINGLE)})" if len(values) > 1 else ""
            rows.append([aim.text, arm, written(value) + which, "yes" if _margin(aim, value) >= 0 else "**no**"])
    return rows


def _is_of(kind: str, wanted: str) -> bool:
    return kind.startswith(wanted) if wanted.endswith(" ") else kind == wanted


def _reached(aim: Aim, arms: Mapping[str, Mapping[str, Mapping[str, Any]]], arm: str) -> float | None:
    value = arms.get(arm, {}).get(aim.metric, {}).get("mean")
    if value is None or not aim.beyond:
        return value
    other = arms.get(aim.beyond, {}).get(aim.metric, {}).get("mean")
    return None if other is None else value - other


def _margin(aim: Aim, value: float) -> float:
    """How far a value lies inside the bounds; negative outside."""
    return min(value - aim.low, aim.high - value)
