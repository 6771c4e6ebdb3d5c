"""Tissue labels of a volume."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

#: Label values and their names.
TISSUE_LABELS = {0: "background", 1: "fat", 2: "fibroglandular tissue"}


def segment_volume(volume: Volume, segmenter: Segmenter, *, progress: Progress = silent) -> Volume:
    """Label fat (1) and fibroglandular tissue (2) of the breast on the volume's own grid.

    Class probabilities, not labels, are resampled to the native matrix.

    Returns:
        Labels, uint8, same grid.
    """
    images, stack, _ = normalised_images(volume, segmenter.image_size, segmenter.config.keeps_aspect)

    def label(batch: Batch) -> NDArray[np.uint8]:
        logits = segmenter.logits(images[batch.rows].to(segmenter.device))
        probabilities = stack.at_native_size(torch.softmax(logits, dim=1))
        progress(batch.rows.stop, len(images), "segmenting")
        return np.asarray(probabilities.argmax(axis=1), dtype=np.uint8)

    with torch.inference_mode():
        labels = in_batches(label, images)
    return volume.with_voxels(stack.voxels(np.concatenate(labels)))


def volumes_ml(labels: Volume) -> dict[str, float]:
    """Volume of each tissue in millilitres."""
    voxel_ml = abs(float(np.linalg.det(labels.affine[:3, :3]))) / 1000
    return {name: float((labels.voxels == value).sum()) * voxel_ml for value, name in TISSUE_LABELS.items() if value}
