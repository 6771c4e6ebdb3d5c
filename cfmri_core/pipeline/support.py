"""Is the source, and is the target, inside what the model was trained on?"""

from __future__ import annotations

from cfmri_core.acquisition import PARAMETER_BY_NAME, AcquisitionParameters
from cfmri_core.models.conditioning import ConditionSpec

#: A continuous value may leave the trained range by this share of its width before a warning.
TOLERANCE = 0.02


def support_warnings(
    factual: AcquisitionParameters, requested: AcquisitionParameters, spec: ConditionSpec
) -> list[str]:
    """Say, in words, what lies outside the model's training support; an empty list means inside.

    Each parameter is judged alone; that a combination (a GE model with a Siemens echo time) never
    occurred in training is not noticed here.
    """
    warnings = []
    for name in spec.blocks:
        source, target = getattr(factual, name), getattr(requested, name)
        warnings += _outside(name, "source", source, spec)
        if target != source:
            warnings += _outside(name, "requested", target, spec)
    return warnings


def _outside(name: str, role: str, value: str | float | None, spec: ConditionSpec) -> list[str]:
    if value is None:
        return [f"{name}: the {role} value is unknown; the model treats it as unconditioned."]
    if name in spec.categories:
        choices = spec.categories[name]
        if value in choices:
            return []
        accepted = ", ".join(str(choice) for choice in choices)
        return [f"{name}: the {role} value '{value}' lies outside the training support ({accepted}); it has no effect."]
    low, high = spec.ranges[name]
    margin = TOLERANCE * (high - low)
    number = float(value)
    if low - margin <= number <= high + margin:
        return []
    unit = PARAMETER_BY_NAME[name].unit
    return [f"{name}: the {role} value {number:g} {unit} lies outside the training support {low:g} to {high:g} {unit}."]
