"""Turn a predictor's raw answers into probabilities that mean what they say, and into error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from cfmri_core.io.json_text import number
from cfmri_core.models.conditioning import ConditionSpec

#: Share of volumes whose true value should lie inside the interval of a continuous parameter.
COVERAGE = 0.9
_NORMAL_HALF_WIDTH = 1.645
_TEMPERATURE_LIMITS = (0.05, 20.0)
#: Accepted slopes of `fit_line`, and the volumes it takes to fit one.
_SLOPES = (0.0, 1.5)
_LEAST_VOLUMES = 20


@dataclass(frozen=True)
class Calibration:
    """What held-back subjects say about a predictor's answers for whole volumes.

    An attribute that is not listed was not calibrated: temperature 1, no class weights, values as they
    are, no error bar.

    Attributes:
        temperatures: Per categorical attribute, the number logits are divided by.
        log_weights: Per categorical attribute, the logarithm of the class weights of training in the order of the
            categories. Training with weights shifts the best logits by just that; it is taken off again.
        lines: Per continuous attribute, offset and slope of the truth over the raw unit value. Where the image says
            little (flip angle) the slope is small, and the value stays near the usual one.
        standard_deviations: Per continuous attribute, root mean square error in the attribute's unit.
        half_widths: Per continuous attribute, half the width of the 90 % interval in the attribute's unit.
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    log_weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lines: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    standard_deviations: Mapping[str, float] = field(default_factory=dict)
    half_widths: Mapping[str, float] = field(default_factory=dict)

    def probabilities(self, name: str, logits: Tensor) -> Tensor:
        """Return probabilities of a categorical attribute from logits ``(..., n_categories)``.

        Sources: Guo et al., ICML 2017 (temperature); Menon et al., ICLR 2021 (shift by the class weights).
        """
        shift = self.log_weights.get(name, (0.0,) * logits.shape[-1])
        return torch.softmax(logits / self.temperatures.get(name, 1.0) - logits.new_tensor(shift), dim=-1)

    def corrected(self, name: str, unit_value: float) -> float:
        """Return the unit value of a continuous attribute that a raw one stands for."""
        offset, slope = self.lines.get(name, (0.0, 1.0))
        return offset + slope * unit_value

    def interval(self, name: str, value: float) -> tuple[float, float] | None:
        """Return the 90 % interval of a continuous attribute in its unit, ``None`` if it was not calibrated."""
        half = self.half_widths.get(name)
        return None if half is None else (value - half, value + half)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON-ready values."""
        return {
            "temperatures": dict(self.temperatures),
            "log_weights": {name: list(values) for name, values in self.log_weights.items()},
            "lines": {name: list(line) for name, line in self.lines.items()},
            "standard_deviations": dict(self.standard_deviations),
            "half_widths": dict(self.half_widths),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from what `to_json` returned."""
        shifts = {name: tuple(number(value) for value in shift) for name, shift in values["log_weights"].items()}
        lines = {name: (number(offset), number(slope)) for name, (offset, slope) in values["lines"].items()}
        return cls(
            {name: number(value) for name, value in values["temperatures"].items()},
            shifts,
            lines,
            {name: number(value, 0) for name, value in values["standard_deviations"].items()},
            {name: number(value, 0) for name, value in values["half_widths"].items()},
        )


def fit_calibration(
    spec: ConditionSpec, outputs: Mapping[str, Tensor], targets: Tensor, class_weights: Mapping[str, Tensor]
) -> Calibration:
    """Fit a calibration to volumes that were not trained on.

    Args:
        spec: Attributes, categories and ranges.
        outputs: Per attribute, raw answers for whole volumes: logits ``(volumes, n_categories)``, or unit values
            ``(volumes,)``.
        targets: Condition vectors of the volumes, ``(volumes, width)``; a block of zeros is unknown and left out.
        class_weights: Weights the predictor was trained with, per categorical attribute.
    """
    temperatures, shifts, lines, deviations, half_widths = {}, {}, {}, {}, {}
    for name, block in spec.blocks.items():
        known = targets[:, block].abs().sum(dim=1) > 0
        if not bool(known.any()):
            continue
        output, target = outputs[name][known].double(), targets[known, block].double()
        if name in spec.categories:
            shift = _log_weights(class_weights.get(name), output.shape[1])
            shifts[name] = tuple(shift.tolist())
            temperatures[name] = fit_temperature(output, target.argmax(dim=1), shift)
        else:
            unit = spec.from_unit(name, 1.0) - spec.from_unit(name, 0.0)
            offset, slope = lines[name] = fit_line(output, target[:, -1])
            errors = unit * (offset + slope * output - target[:, -1]).abs()
            deviations[name] = float(errors.square().mean().sqrt())
            half_widths[name] = conformal_half_width(errors)
    return Calibration(temperatures, shifts, lines, deviations, half_widths)


def fit_temperature(logits: Tensor, truth: Tensor, log_weights: Tensor) -> float:
    """Return the temperature with the least cross-entropy.

    With few volumes, all of them right, the best temperature would be 0 and the predictor certain of
    everything; the targets are therefore smoothed to ``(n + 1) / (n + 2)``.

    Args:
        logits: Shape ``(volumes, n_categories)``.
        truth: Index of the true category, shape ``(volumes,)``.
        log_weights: Shape ``(n_categories,)``, see `Calibration`.

    Sources: Guo et al., ICML 2017; Platt 1999 (smoothed targets).
    """
    count, categories = logits.shape
    if categories < 2:
        return 1.0
    smoothing = 1 / (count + 2)
    wanted = torch.full_like(logits, smoothing / (categories - 1))
    wanted[torch.arange(count), truth] = 1 - smoothing

    def cross_entropy(log_temperature: float) -> float:
        logs = torch.log_softmax(logits / math.exp(log_temperature) - log_weights.to(logits), dim=1)
        return float(-(wanted * logs).sum(dim=1).mean())

    low, high = _TEMPERATURE_LIMITS
    return math.exp(float(minimize_scalar(cross_entropy, bounds=(math.log(low), math.log(high)), method="bounded").x))


def fit_line(values: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return offset and slope of the least-squares line of the truth over predicted values, both ``(volumes,)``.

    The slope stays in `_SLOPES`; with too few volumes the values are left as they are.
    """
    if len(values) < _LEAST_VOLUMES or not float(values.var(correction=0)) > 0:
        return 0.0, 1.0
    centred = values - values.mean()
    slope = float((centred * (truth - truth.mean())).sum() / centred.square().sum())
    slope = min(max(slope, _SLOPES[0]), _SLOPES[1])
    return float(truth.mean()) - slope * float(values.mean()), slope


def conformal_half_width(errors: Tensor) -> float:
    """Return the half width that covers a new volume's error with probability `COVERAGE`.

    It is the ceil((n + 1) 0.9)-th smallest absolute error; with fewer than 9 volumes there is no such
    error and a normal distribution is assumed.

    Args:
        errors: Absolute errors of held-back volumes, shape ``(volumes,)``.

    Source: Lei et al., J Am Stat Assoc 2018;113:1094-1111 (split conformal prediction).
    """
    rank = math.ceil((len(errors) + 1) * COVERAGE)
    if rank > len(errors):
        return _NORMAL_HALF_WIDTH * float(errors.square().mean().sqrt())
    return float(errors.sort().values[rank - 1])


def _log_weights(weights: Tensor | None, categories: int) -> Tensor:
    """Logarithm of class weights; a category that did not occur (weight 0) is not shifted."""
    if weights is None:
        return torch.zeros(categories, dtype=torch.float64)
    return torch.where(weights > 0, weights, torch.ones_like(weights)).double().log()
