"""Weights that let every head of a predictor learn, however rare its categories or small its spread."""

from __future__ import annotations

import torch
from torch import Tensor

from cfmri_core.models.conditioning import ConditionSpec

#: Floors of `inverse_spread`: of the spread over all studies in half-ranges, and of that within a cell as its share.
_LEAST_SPREAD, _LEAST_SHARE = 0.05, 0.1


def inverse_class_frequency(spec: ConditionSpec, targets: Tensor) -> dict[str, Tensor]:
    """Return weights that make every category count the same in `cfmri_core.models.iap_predictor.IapPredictor.loss`.

    Args:
        spec: Attributes and categories.
        targets: Condition vectors, one per *study* (not per slice: a study with many slices would
            count more), shape ``(studies, width)``.

    Returns:
        Per categorical attribute: weights, float32, shape ``(n_categories,)``, mean 1 over the
        studies; 0 for a category that does not occur.
    """
    weights = {}
    for name in spec.categories:
        counts = targets[:, spec.blocks[name]].sum(dim=0)
        present = counts > 0
        inverse = torch.where(present, counts.sum() / counts.clamp(min=1.0), torch.zeros_like(counts))
        weights[name] = inverse / present.sum().clamp(min=1)
    return weights


def inverse_spread(spec: ConditionSpec, targets: Tensor) -> dict[str, float]:
    """Return weights that let every continuous attribute learn, in `cfmri_core.models.iap_predictor.IapPredictor.loss`.

    The weight is 1 over the product of two standard deviations: over all studies, and among studies
    of the same scanner, field and options. The first alone would be content with the typical value
    of each scanner, the second alone would drown the other attributes until the scanner is known.

    Args:
        spec: Attributes and ranges.
        targets: Condition vectors, one per study, shape ``(studies, width)``.
    """
    columns = torch.cat([targets[:, spec.blocks[name]] for name in spec.categories], dim=1)
    _, cell = torch.unique(columns, dim=0, return_inverse=True)
    weights = {}
    for name in spec.ranges:
        block = spec.blocks[name]
        known = targets[:, block].abs().sum(dim=1) > 0
        values, cells = targets[known, block.stop - 1], cell[known]
        means = torch.stack([values[cells == one].mean() for one in cells]) if len(cells) else values
        overall = max(float(values.std(correction=0)) if len(values) else 0.0, _LEAST_SPREAD)
        within = max(float((values - means).square().mean().sqrt()) if len(values) else 0.0, _LEAST_SHARE * overall)
        weights[name] = 1 / (overall * within)
    return weights
