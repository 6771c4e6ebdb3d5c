"""Measure the fibroglandular share of a volume, before and after an edit, with one segmenter inside one breast."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.structure_editor import areas, sharpened
from cfmri_core.slices import IntensityScale, SliceStack
from cfmri_core.volume import Volume


class ShareReader:
    """A segmenter that reads shares off versions of one volume.

    Args:
        volume: The source. Versions are read on its intensity scale: percentiles of their own would move with what was
            changed.
        breast: Voxels of the breast, shape of the volume.
        segmenter: The segmenter; it decides resolution and device.
    """

    def __init__(self, volume: Volume, breast: NDArray[np.bool_], segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.scale = IntensityScale.of(volume.voxels)
        self.stack = SliceStack.of(volume, segmenter.config.image_size, segmenter.config.keeps_aspect)
        self.breast = self.stack.images(np.asarray(self.stack.native(breast.astype(np.float32))))

    def share(self, voxels: NDArray[np.float32]) -> float:
        """Return the fibroglandular share of the breast in a version of the volume, shape of the volume."""
        images = self.stack.images(self.scale.normalise(np.asarray(self.stack.native(voxels))))

        def read(batch: Batch) -> Tensor:
            device = self.segmenter.device
            probabilities = sharpened(self.segmenter, images[batch.rows].to(device))
            return areas(probabilities, self.breast[batch.rows].to(device))[0].cpu()

        with torch.no_grad():
            return float(torch.cat(in_batches(read, images)).sum() / self.breast.sum().clamp(min=1))
