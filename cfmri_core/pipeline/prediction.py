"""Predict how a volume was acquired from its voxels alone."""

from __future__ import annotations

from typing import Any

import torch

from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: Share of slices dropped at each end of the stack, where there is little tissue.
_END_SHARE = 0.1


def predict_acquisition(volume: Volume, predictor: IapPredictor) -> dict[str, dict[str, Any]]:
    """Predict acquisition parameters, averaged over the slices of a volume.

    Returns:
        Per parameter ``value`` and, where it is categorical, ``probabilities`` by category. The
        manufacturer is not predicted by itself: it follows from the model.

    Raises:
        GeometryError: The image is constant.
    """
    images, _, _ = normalised_images(volume, predictor.image_size)
    ends = round(_END_SHARE * len(images))
    with torch.inference_mode():
        return predictor.predict(images[ends : len(images) - ends])
