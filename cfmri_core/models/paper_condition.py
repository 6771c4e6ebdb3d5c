"""What the columns of the condition mean in the networks that the authors of the paper published.

Only the predictor's checkpoint says it: the order of the categories is the one in which they first occurred in the
authors' table, and the scales are the largest values in it.

Source: arXiv 2410.23835 and its published code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_core.acquisition import nominal_field_strength_t
from cfmri_core.errors import CheckpointError
from cfmri_core.io.lightning import LightningCheckpoint, read_lightning
from cfmri_core.models.conditioning import CATEGORICAL, CONTINUOUS, Category, ConditionSpec

#: The authors' names (columns of the Duke table) of our attributes.
FEATURES: Mapping[str, str] = {
    "field_strength_t": "Field Strength (Tesla)",
    "flip_angle_deg": "Flip Angle",
    "manufacturer_model": "Manufacturer Model Name",
    "scan_options": "Scan Options",
    "slice_thickness_mm": "Slice Thickness",
    "echo_time_ms": "TE (Echo Time)",
    "repetition_time_ms": "TR (Repetition Time)",
}

_KEYS = ("features_dims", "features_labels", "features_scale")


def read_condition_spec(path: Path, trust_pickle: bool = False) -> ConditionSpec:
    """Read the meaning of the columns from a predictor's checkpoint, or from a ``.json`` file of the three settings.

    Args:
        path: The file.
        trust_pickle: See `read_lightning`.

    Raises:
        CheckpointError: The file cannot be read, something is missing, or the features are not the paper's seven.
    """
    if path.suffix.lower() != ".json":
        return condition_spec(read_lightning(path, trust_pickle=trust_pickle))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"Cannot read {path} as JSON: {error}.") from error
    return _spec(values if isinstance(values, dict) else {}, path)


def condition_spec(predictor: LightningCheckpoint) -> ConditionSpec:
    """Read the meaning of the columns from a predictor's hyper-parameters.

    ``features_dims`` holds the columns by feature, ``features_labels`` the category of each column
    by categorical feature, ``features_scale`` the largest value by continuous feature. The smallest
    is not there; 0 stands for it.

    Raises:
        CheckpointError: Something is missing, or the features are not the paper's seven.
    """
    return _spec(predictor.hyper_parameters, predictor.path)


def _spec(features: Mapping[str, Any], path: Path) -> ConditionSpec:
    absent = [name for name in _KEYS if not isinstance(features.get(name), Mapping)]
    if absent:
        raise CheckpointError(
            f"{path} has no hyper-parameters {', '.join(absent)}: the order of the categories and the scales, without "
            "which the condition means nothing.",
            "Give the predictor's checkpoint, or a JSON file with these, as --iap-checkpoint.",
        )
    dims, labels, scale = (features[name] for name in _KEYS)
    differing = sorted(set(dims) ^ set(FEATURES.values()))
    if differing:
        raise CheckpointError(f"{path} has other features than the paper's seven: {', '.join(differing)}.")
    try:
        categories = {name: _categories(name, labels[FEATURES[name]]) for name in CATEGORICAL}
        ranges = {name: (0.0, float(scale[FEATURES[name]])) for name in CONTINUOUS}
        spec = ConditionSpec(categories, ranges, scaling="maximum")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a condition that cannot be built: {error!r}.") from error
    for name, block in spec.blocks.items():
        # A single category would be mistaken for a number by the authors' code.
        if dims[FEATURES[name]] != block.stop - block.start or (name in CATEGORICAL and dims[FEATURES[name]] == 1):
            raise CheckpointError(f"{path}: features_dims of '{FEATURES[name]}' is {dims[FEATURES[name]]}.")
    return spec


def _categories(name: str, labels: Mapping[str, Any] | list[Any]) -> tuple[Category, ...]:
    """Put categories in the order of their columns; they are keyed by column, in JSON as text."""
    if isinstance(labels, Mapping):
        columns = {int(column): label for column, label in labels.items()}
        labels = [columns[column] for column in range(len(labels))]
    if any(label is None for label in labels):
        raise ValueError(f"a category of {name} is neither text nor number")
    if name == "field_strength_t":
        return tuple(nominal_field_strength_t(float(label)) for label in labels)
    return tuple(str(label).strip() for label in labels)
