"""After an edit: was what was asked for reached, and nothing else changed?

Three questions, each answered with a measure, its limit, and words when it fails: are the requested
parameters read off the result, are the untouched ones as before; is the anatomy the same; is the share of
fibroglandular tissue the same. What a good edit gives is measured on paired truth where there is some
(`fit_anatomy_limits`): the truth under other parameters does not agree with its source perfectly either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.anatomy_agreement import (
    body_mask,
    gradient_orientation_agreement,
    noise_level,
    structural_change,
)
from cfmri_core.io.json_text import number
from cfmri_core.models.companion import checked_companion, read_companion, write_companion
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.pipeline.prediction_error import Predicted, PredictionError, difference
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.pipeline.support import LEVELS, TrainingSupport
from cfmri_core.slices import IntensityScale, is_constant, slices_last
from cfmri_core.volume import Volume

#: From the best to the worst.
VERDICTS = ("accepted", "accepted with warnings", "refused")
#: File beside the weights of an editor.
FILE_NAME = "acceptance.json"

#: Share of perfect edits that an anatomy measure may find wanting, all measures together.
_FALSE_ALARM_SHARE = 0.05
_ANATOMY_MEASURES = 3
#: A failure this many times beyond its limit refuses the edit instead of warning of it.
_REFUSAL_FACTOR = 2.0
#: A voxel is changed in structure if no local contrast map explains this much of it, in normalised units, beyond noise.
_STRUCTURAL_STEP = 0.1
_NOISE_STEPS = 4.0
#: The agreement that noise alone would leave is kept by a good edit to this share; used without paired truth.
_AGREEMENT_SHARE = 0.8
#: Shares are not held to less than this, however steady the truth is.
_LEAST_LIMIT = 0.01
#: Fewer tissue voxels than this share of the body say nothing about shares.
_LEAST_TISSUE_SHARE = 0.01


@dataclass(frozen=True)
class AnatomyLimits:
    """What the paired truth of validation subjects does to the anatomy measures, as limits for edits.

    Attributes:
        agreement: Least gradient-orientation agreement with the source; ``None`` estimates it from the
            source's own noise.
        structural_share: Largest share of body voxels that no local contrast map explains.
        tissue_change: Largest change of the fibroglandular share of the breast.
        subjects: Subjects the limits were measured on; 0 for limits that were not.
    """

    agreement: float | None = None
    structural_share: float = 0.05
    tissue_change: float = 0.05
    subjects: int = 0


@dataclass(frozen=True)
class Judges:
    """Models that can judge an edit, and what is known of their errors.

    Attributes:
        predictor: Reads acquisition parameters off images; ``None`` leaves that question open.
        error: Of the predictor; ``None`` takes a quarter of each trained range.
        segmenter: Labels tissue; ``None`` leaves that question open.
        limits: Of the anatomy measures.
        trained_on: Which parameters occurred together in the predictor's training; ``None`` takes its word for any.
    """

    predictor: IapPredictor | None = None
    error: PredictionError | None = None
    segmenter: Segmenter | None = None
    limits: AnatomyLimits = field(default_factory=AnatomyLimits)
    trained_on: TrainingSupport | None = None


@dataclass(frozen=True)
class Acceptance:
    """Whether an edit may be believed.

    Attributes:
        verdict: One of `VERDICTS`.
        reasons: What failed, in words.
        measures: What was measured, by name.
        unanswered: Questions that could not be judged, in words.
    """

    verdict: str
    reasons: tuple[str, ...]
    measures: Mapping[str, Any]
    unanswered: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-ready values."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "measures": dict(self.measures),
            "unanswered": list(self.unanswered),
        }


def judge_edit(
    source: Volume,
    result: Volume,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    judges: Judges,
) -> Acceptance:
    """Judge an edit by its result.

    Args:
        source: The part of the source that was edited, scanner units.
        result: The edited volume, same grid and units.
        factual: How the source was acquired.
        requested: Parameters the result is meant to have.
        judges: Models to judge by.

    Returns:
        Refused if none of the requested parameters that the predictor can tell was reached, or if an
        anatomy measure misses its limit twice over; accepted with warnings if anything else failed. Parameters that
        did not occur together in the predictor's training it cannot tell: on scanners they go together, so it may
        read one off another. Slices that are constant in the source leave all questions open.
    """
    if is_constant(source) or is_constant(result):
        return _verdict([_nothing_to_judge(source)])
    findings = [_anatomy(source, result, judges.limits)]
    if judges.predictor is None:
        findings.append(_Findings(unanswered=["parameters: there is no predictor of acquisition parameters."]))
    else:
        error = judges.error or PredictionError.uncalibrated(judges.predictor.spec)
        before, after = (predict_acquisition(volume, judges.predictor) for volume in (source, result))
        read = [
            _requested(after, factual, requested, error),
            _untouched(before, after, factual, requested, error, judges.predictor.spec),
        ]
        findings += read if _can_be_told(requested, judges.trained_on) else [_untold(read)]
    if judges.segmenter is None:
        findings.append(_Findings(unanswered=["tissue: there is no tissue segmenter."]))
    else:
        findings.append(_tissue(source, result, judges.segmenter, judges.limits))
    return _verdict(findings)


def anatomy_measures(source: Volume, result: Volume) -> dict[str, float]:
    """Measure how far the anatomy of a result agrees with its source, inside the body.

    Returns:
        ``gradient_agreement``; ``noise_agreement``, that of the source with itself under noise as strong as
        its own; ``chance_agreement``, that of unrelated anatomies; and ``structural_share``, the share of
        voxels that no local contrast map explains.
    """
    before, after = (IntensityScale.of(one.voxels).normalise(slices_last(one)) for one in (source, result))
    mask = body_mask(before)
    if not mask.any():
        mask = np.ones_like(mask)
    noise = noise_level(before)
    noisy = before + np.random.default_rng(0).normal(0.0, noise, before.shape)
    step = _STRUCTURAL_STEP + _NOISE_STEPS * noise
    return {
        "gradient_agreement": gradient_orientation_agreement(after, before, mask),
        "noise_agreement": gradient_orientation_agreement(noisy, before, mask),
        "chance_agreement": 0.5 * gradient_orientation_agreement(before, before, mask),
        "structural_share": float((np.abs(structural_change(after, before)) > step)[mask].mean()),
    }


def fibroglandular_share(volume: Volume, segmenter: Segmenter) -> float | None:
    """Return the fibroglandular share of the breast tissue found, ``None`` where hardly any is found."""
    labels = segment_volume(volume, segmenter).voxels
    return _share(labels)


def fit_anatomy_limits(truths: Iterable[tuple[Volume, Volume]], segmenter: Segmenter | None) -> AnatomyLimits:
    """Measure what another acquisition of the same anatomy gives, so that an edit need not be better than that.

    The limits are one-sided prediction limits of one more subject, taken as normal: the fewer subjects, the
    wider. Together they find at most 5 % of perfect edits wanting (Bonferroni). A single subject gives the default.

    Args:
        truths: Per validation subject, the source and the same anatomy truly acquired otherwise, with its
            own noise if possible: an edit has noise too.
        segmenter: Labels tissue; without it the tissue limit stays the default.
    """
    share = 1 - _FALSE_ALARM_SHARE / _ANATOMY_MEASURES
    default = AnatomyLimits()
    agreements, structural, tissue = [], [], []
    for source, truth in truths:
        measures = anatomy_measures(source, truth)
        agreements.append(measures["gradient_agreement"])
        structural.append(measures["structural_share"])
        shares = [fibroglandular_share(volume, segmenter) for volume in (source, truth)] if segmenter else []
        tissue += [abs(shares[1] - shares[0])] if shares and None not in shares else []  # type: ignore[operator]
    if len(agreements) < 2:
        return default
    return AnatomyLimits(
        max(0.0, -_upper_limit([-agreement for agreement in agreements], share)),
        max(_LEAST_LIMIT, _upper_limit(structural, share)),
        max(_LEAST_LIMIT, _upper_limit(tissue, share)) if len(tissue) > 1 else default.tissue_change,
        len(agreements),
    )


def write_anatomy_limits(folder: Path, limits: AnatomyLimits, sha256: str) -> Path:
    """Write the limits beside an editor's weights; see `write_companion`."""
    return write_companion(folder, FILE_NAME, sha256, vars(limits))


def read_anatomy_limits(folder: Path, sha256: str) -> AnatomyLimits:
    """Read the limits of an editor; the default where it has none.

    Raises:
        CheckpointError: They are damaged or belong to other weights.
    """
    values = read_companion(folder, FILE_NAME, sha256)
    if values is None:
        return AnatomyLimits()
    with checked_companion(Path(folder) / FILE_NAME):
        return AnatomyLimits(
            None if values["agreement"] is None else number(values["agreement"], 0),
            number(values["structural_share"], 0),
            number(values["tissue_change"], 0),
            int(number(values["subjects"], 0)),
        )


@dataclass(frozen=True)
class _Findings:
    """Answer to one question."""

    measures: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)


def _verdict(findings: Iterable[_Findings]) -> Acceptance:
    found = list(findings)
    refusals = [reason for one in found for reason in one.refusals]
    warnings = [reason for one in found for reason in one.warnings]
    measures = {name: value for one in found for name, value in one.measures.items()}
    verdict = VERDICTS[2] if refusals else VERDICTS[1] if warnings else VERDICTS[0]
    unanswered = tuple(reason for one in found for reason in one.unanswered)
    return Acceptance(verdict, (*refusals, *warnings), measures, unanswered)


def _nothing_to_judge(source: Volume) -> _Findings:
    if not is_constant(source):
        return _Findings(refusals=["the result is constant, and the source is not."])
    return _Findings(
        unanswered=[f"{what}: the source is constant here." for what in ("anatomy", "parameters", "tissue")]
    )


def _anatomy(source: Volume, result: Volume, limits: AnatomyLimits) -> _Findings:
    measures = anatomy_measures(source, result)
    least = limits.agreement if limits.agreement is not None else _AGREEMENT_SHARE * measures["noise_agreement"]
    findings = _Findings({**measures, "least_gradient_agreement": least})
    agreement, chance = measures["gradient_agreement"], measures["chance_agreement"]
    if agreement < least:
        reason = (
            f"the edges of the result agree with those of the source to {agreement:.2f}; at least {least:.2f} is "
            f"expected of another acquisition of the same anatomy, {chance:.2f} of another anatomy."
        )
        (findings.refusals if agreement < (least + min(least, chance)) / 2 else findings.warnings).append(reason)
    share = measures["structural_share"]
    if share > limits.structural_share:
        reason = (
            f"{share:.1%} of the body changed in a way that no local change of contrast explains; at most "
            f"{limits.structural_share:.1%} is expected."
        )
        (findings.refusals if share > _REFUSAL_FACTOR * limits.structural_share else findings.warnings).append(reason)
    return findings


def _requested(
    after: Predicted, factual: AcquisitionParameters, requested: AcquisitionParameters, error: PredictionError
) -> _Findings:
    asked = [name for name in ATTRIBUTES if name in factual.differences(requested)]
    ratios = error.ratios(after, requested, asked)
    missed = [name for name, ratio in ratios.items() if ratio > 1]
    predicted = {name: {"requested": getattr(requested, name), "predicted": after[name]["value"]} for name in asked}
    findings = _Findings({"requested": predicted, "requested_error_in_limits": ratios})
    untold = [name for name in asked if name not in ratios]
    if untold:
        findings.unanswered.append(f"parameters: the predictor cannot tell {', '.join(untold)} from the image.")
    reasons = [
        f"the result does not show what was asked for: {_difference(name, after, requested)}." for name in missed
    ]
    (findings.refusals if missed and len(missed) == len(ratios) else findings.warnings).extend(reasons)
    return findings


def _can_be_told(requested: AcquisitionParameters, trained_on: TrainingSupport | None) -> bool:
    return trained_on is None or trained_on.judge(requested, "requested").verdict != LEVELS[-1]


def _untold(read: Iterable[_Findings]) -> _Findings:
    """Keep what was read off the result as a measure, without a judgement."""
    measures = {name: value for one in read for name, value in one.measures.items()}
    reason = "parameters: the predictor was trained on no scan with the requested parameters together."
    return _Findings(measures, unanswered=[reason])


def _difference(name: str, after: Predicted, requested: AcquisitionParameters) -> str:
    return difference(name, after, requested).replace("stated as", "requested as")


def _untouched(
    before: Predicted,
    after: Predicted,
    factual: AcquisitionParameters,
    requested: AcquisitionParameters,
    error: PredictionError,
    spec: ConditionSpec,
) -> _Findings:
    """Compare predictions before and after: what was not asked for may move by as much as the predictor errs."""
    kept = set(ATTRIBUTES) - set(factual.differences(requested))
    names = [name for name in ATTRIBUTES if name in kept & before.keys() & after.keys()]
    ratios = error.moves(before, after, names)
    findings = _Findings({"untouched_moved_by": {}, "untouched_moved_in_limits": ratios})
    for name in names:
        old, new = before[name]["value"], after[name]["value"]
        if name in spec.ranges:
            low, high = spec.ranges[name]
            moved = abs(new - old) / (high - low) if high > low else 0.0
            words = f"from {old:.3g} to {new:.3g} {PARAMETER_BY_NAME[name].unit}"
        else:
            moved, words = float(new != old), f"from '{old}' to '{new}'"
        findings.measures["untouched_moved_by"][name] = round(moved, 4)
        if ratios.get(name, 0.0) > 1 and not _is_nearer(new, old, getattr(factual, name)):
            findings.warnings.append(f"{name} was not to be changed; its predicted value moved {words}.")
    return findings


def _is_nearer(new: Any, old: Any, stated: str | float | None) -> bool:
    """Whether a prediction moved towards the true value, which is no fault of the edit."""
    if isinstance(stated, float) and not isinstance(new, str):
        return bool(abs(new - stated) <= abs(old - stated))
    return bool(new == stated)


def _tissue(source: Volume, result: Volume, segmenter: Segmenter, limits: AnatomyLimits) -> _Findings:
    before, after = (fibroglandular_share(volume, segmenter) for volume in (source, result))
    findings = _Findings({"fibroglandular_share": [before, after]})
    if before is None or after is None:
        findings.unanswered.append("tissue: the segmenter finds hardly any breast tissue.")
        return findings
    moved = abs(after - before)
    if moved > limits.tissue_change:
        reason = (
            f"the fibroglandular share of the breast went from {before:.1%} to {after:.1%} by the segmenter; a change "
            f"of at most {limits.tissue_change:.1%} is expected."
        )
        (findings.refusals if moved > _REFUSAL_FACTOR * limits.tissue_change else findings.warnings).append(reason)
    return findings


def _upper_limit(values: list[float], share: float) -> float:
    """Upper prediction limit for one more value of a normal sample (Hahn & Meeker 1991, section 4.8)."""
    reach = float(student.ppf(share, len(values) - 1)) * float(np.sqrt(1 + 1 / len(values)))
    return round(float(np.mean(values)) + reach * float(np.std(values, ddof=1)), 4)


def _share(labels: NDArray[Any]) -> float | None:
    fat, fibroglandular = int((labels == 1).sum()), int((labels == 2).sum())
    if fat + fibroglandular < _LEAST_TISSUE_SHARE * labels.size:
        return None
    return fibroglandular / (fat + fibroglandular)
