"""Do predicted acquisition parameters agree with stated ones, as far as the predictor can tell?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.data.studies import SliceSet
from cfmri_core.io.json_text import number
from cfmri_core.models.conditioning import ATTRIBUTES, ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor, volume_outputs
from cfmri_core.pipeline.prediction import inner_slices
from cfmri_core.pipeline.support import Verdict, graded, worst

#: What `predict_acquisition` returns.
Predicted = Mapping[str, Mapping[str, Any]]

#: Share of volumes of which some parameter may look at odds though it is not, all parameters together.
FALSE_ALARM_SHARE = 0.02
#: A category is not at odds while it has this probability, whatever the calibration says.
_LEAST_PROBABILITY = 0.05
_TINY_PROBABILITY = 1e-6
#: A predictor whose error is a larger share of the spread over subjects does not tell the parameter from the image.
_USELESS_ERROR_SHARE = 0.5
#: Smaller errors than this share of that spread are never at odds.
_LEAST_ERROR_SHARE = 0.25
#: Limits without a calibration: of a continuous parameter, as a share of the trained range.
_UNCALIBRATED_SHARE = 0.25


@dataclass(frozen=True)
class PredictionError:
    """How far predictions of held-back volumes lie from the truth.

    Attributes:
        limits: Per continuous parameter, the largest error in its unit, and per categorical one, the least
            probability of the true category, that is not at odds; ``None`` where the predictor does not tell
            the parameter from the image.
        subjects: Subjects this was measured on; 0 for limits that are not measured at all.
    """

    limits: Mapping[str, float | None]
    subjects: int

    def ratios(self, predicted: Predicted, stated: AcquisitionParameters, names: Iterable[str]) -> dict[str, float]:
        """Return how far predictions lie from stated values, 1 at the limit.

        Parameters that are unknown, not predicted, not told from the image, or of a category that the
        predictor does not know, are left out.
        """
        found = {name: self._ratio(name, predicted, getattr(stated, name)) for name in names}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def moves(self, before: Predicted, after: Predicted, names: Iterable[str]) -> dict[str, float]:
        """Return how far predictions lie from earlier ones, 1 where they would contradict a header that says so.

        What is not told from the image is left out, as in `ratios`.
        """
        found = {name: self._ratio(name, after, before[name]["value"]) for name in names}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def judge_header(self, predicted: Predicted, header: AcquisitionParameters) -> Verdict:
        """Judge whether a header is at odds with the image."""
        ratios = self.ratios(predicted, header, ATTRIBUTES)
        return worst(
            Verdict(graded(ratio), (f"the header is at odds with the image: {difference(name, predicted, header)}.",))
            for name, ratio in ratios.items()
            if ratio > 1
        )

    def to_json(self) -> dict[str, Any]:
        """Return the limits as JSON-ready values."""
        return {"limits": dict(self.limits), "subjects": self.subjects}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PredictionError:
        """Build from what `to_json` returned."""
        limits = {name: None if limit is None else number(limit, 0) for name, limit in values["limits"].items()}
        return cls(limits, int(number(values["subjects"], 0)))

    @classmethod
    def uncalibrated(cls, spec: ConditionSpec) -> PredictionError:
        """Return limits for a predictor that nothing was measured of: a quarter of each trained range."""
        continuous = {name: _UNCALIBRATED_SHARE * (high - low) or None for name, (low, high) in spec.ranges.items()}
        return cls({**continuous, **dict.fromkeys(spec.categories, _LEAST_PROBABILITY)}, 0)

    def _ratio(self, name: str, predicted: Predicted, stated: str | float | None) -> float | None:
        limit = self.limits.get(name)
        if limit is None or stated is None or name not in predicted:
            return None
        probabilities = predicted[name].get("probabilities")
        if probabilities is None:
            return abs(float(predicted[name]["value"]) - float(stated)) / limit
        probability = probabilities.get(str(stated))
        return None if probability is None else _surprise(probability) / _surprise(limit)


def difference(name: str, predicted: Predicted, stated: AcquisitionParameters) -> str:
    """Say what is predicted and what is stated, e.g. ``echo_time_ms is predicted as 1.4 ms and stated as 2.4 ms``."""
    unit = PARAMETER_BY_NAME[name].unit
    values = [predicted[name]["value"], getattr(stated, name)]
    said = [f"{value:.3g} {unit}" if isinstance(value, float) else f"'{value}'" for value in values]
    return f"{name} is predicted as {said[0]} and stated as {said[1]}"


def fit_prediction_error(slices: SliceSet, predictor: IapPredictor) -> PredictionError:
    """Measure a predictor on subjects that it was not trained on.

    The limit of a parameter is the prediction limit of one more error, taken as normal with mean 0, at
    `FALSE_ALARM_SHARE` divided by the number of parameters (Bonferroni), or the largest error seen if that
    is larger: errors have heavier tails. Categories are measured by the negative logarithm of their
    probability, as if one more subject had been taken for quite another: that few were right proves little.
    """
    subjects = range(len(slices.parameters))
    volumes = [inner_slices(predictor.slice_outputs(slices.images[slices.subject == index])) for index in subjects]
    predicted = [predictor.summary(volume_outputs(volume)) for volume in volumes]
    limits = {name: _limit(name, predicted, slices.parameters, predictor.spec) for name in ATTRIBUTES}
    return PredictionError(limits, len(slices.parameters))


def _limit(
    name: str, predicted: Sequence[Predicted], truth: Sequence[AcquisitionParameters], spec: ConditionSpec
) -> float | None:
    pairs = [(one[name], getattr(own, name)) for one, own in zip(predicted, truth, strict=True)]
    known = [(one, value) for one, value in pairs if value is not None]
    if not known:
        return None
    share = FALSE_ALARM_SHARE / len(ATTRIBUTES)
    reach = float(student.ppf(1 - share / 2, len(known)))
    if name in spec.categories:
        surprises = [_surprise(one["probabilities"].get(str(value), _TINY_PROBABILITY)) for one, value in known]
        surprises.append(_surprise(_TINY_PROBABILITY))
        probability = math.exp(-reach * float(np.sqrt(np.mean(np.square(surprises)))))
        return min(_LEAST_PROBABILITY, max(_TINY_PROBABILITY, probability))
    values = np.array([float(value) for _, value in known])
    errors = np.abs(np.array([float(one["value"]) for one, _ in known]) - values)
    error, spread = float(np.sqrt(np.mean(errors**2))), float(values.std())
    if error >= _USELESS_ERROR_SHARE * spread:
        return None
    return max(reach * error, float(errors.max()), _LEAST_ERROR_SHARE * spread)


def _surprise(probability: float) -> float:
    return -math.log(min(1 - _TINY_PROBABILITY, max(_TINY_PROBABILITY, probability)))
