"""Where a lesion segmenter sees lesions in a volume."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from cfmri_core.data.lesion_scans import working_stack
from cfmri_core.models.batches import Batch, in_batches
from cfmri_core.models.direct_editor import with_neighbours
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

#: Rows and columns of what the network sees are multiples of this.
_MULTIPLE = 16


def lesion_probability(volume: Volume, segmenter: LesionSegmenter) -> NDArray[np.float32]:
    """Return the probability of a lesion per voxel, float32, shape of the volume."""
    stack, scale = working_stack(volume, segmenter.config.pixel_mm), IntensityScale.of(volume.voxels)
    images = stack.images(scale.normalise(np.asarray(stack.native(volume.voxels))))
    size = images.shape[-1]
    short = -size % _MULTIPLE
    seen = pad(with_neighbours(images), (0, short, 0, short))

    def detect(batch: Batch) -> Tensor:
        logits = segmenter.logits(seen[batch.rows].to(segmenter.device))
        return torch.sigmoid(logits)[..., :size, :size].cpu()

    with torch.inference_mode():
        probability = torch.cat(in_batches(detect, seen))
    return np.asarray(stack.voxels(stack.at_native_size(probability)[:, 0]), dtype=np.float32)
