"""Predict how a volume was acquired from its voxels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cfmri_core.models.iap_predictor import IapPredictor, volume_outputs
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: Share of slices dropped at each end of the stack, where there is little tissue.
_END_SHARE = 0.1


def predict_acquisition(volume: Volume, predictor: IapPredictor) -> dict[str, dict[str, Any]]:
    """Predict acquisition parameters from the slices of a volume together.

    Over the slices (without the outer tenth at each end) logits are averaged and the median of each
    quantity is taken, then the predictor's calibration is applied.

    Returns:
        Per categorical parameter ``value`` and ``probabilities`` by category; per quantity ``value``,
        ``standard_deviation`` and the 90 % ``interval`` ``[low, high]`` in its unit (both ``None`` for
        a predictor without calibration). The manufacturer follows from the model and is there only if
        the predictor knows whose model it is.

    Raises:
        GeometryError: The image is constant.
    """
    return predictor.summary(volume_outputs(predicted_slices(volume, predictor)))


def predicted_slices(volume: Volume, predictor: IapPredictor) -> dict[str, Tensor]:
    """Return the raw answers for the inner slices of a volume, one row per slice, see `IapPredictor.slice_outputs`.

    Raises:
        GeometryError: The image is constant.
    """
    images, _, _ = normalised_images(volume, predictor.image_size, predictor.config.keeps_aspect)
    with torch.inference_mode():
        return inner_slices(predictor.slice_outputs(images))


def inner_slices(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the rows of the outer slices, where there is little tissue to judge by."""
    count = len(next(iter(outputs.values())))
    ends = round(_END_SHARE * count)
    return {name: output[ends : count - ends] for name, output in outputs.items()}
