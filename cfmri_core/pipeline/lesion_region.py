"""The region of a lesion edit: a mask or a box on the scan's grid, and how far around it the image may change."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt

from cfmri_core.data.lesion_scans import body
from cfmri_core.data.masks import on_grid
from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.volume import Volume

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class AskedRegion:
    """Where a lesion is to be, or is.

    Attributes:
        inside: The asked voxels, bool, shape of the scan.
        is_box: Whether only a box was given, and the lesion's own shape is left open.
    """

    inside: BoolArray
    is_box: bool

    @classmethod
    def of_mask(cls, mask: Volume, volume: Volume) -> AskedRegion:
        """Take a mask on the scan's voxels, its axes in any order and direction, cropped or not; all but 0 counts.

        Raises:
            RequestError: It lies on another grid, or is empty.
        """
        inside = on_grid(mask.with_voxels(np.asarray(mask.voxels) != 0), volume, "The mask").voxels
        if not inside.any():
            raise RequestError("The mask is empty.", "Mark at least one voxel.")
        return cls(inside, is_box=False)

    @classmethod
    def of_box(cls, box: Sequence[int], volume: Volume) -> AskedRegion:
        """Take a half-open box ``i0, j0, k0, i1, j1, k1`` of voxels of the scan's array.

        Raises:
            RequestError: It does not have six numbers, is empty, or leaves the scan.
        """
        accepted = f"Give i0,j0,k0,i1,j1,k1 with 0 <= first < last <= {volume.shape}; the last is left out."
        if len(box) != 6:
            raise RequestError(f"A box has 6 numbers, not {len(box)}.", accepted)
        sides = list(zip(box[:3], box[3:], volume.shape, strict=True))
        if not all(0 <= first < last <= size for first, last, size in sides):
            raise RequestError(f"The box {','.join(map(str, box))} does not lie in the scan.", accepted)
        inside = np.zeros(volume.shape, bool)
        inside[tuple(slice(first, last) for first, last, _ in sides)] = True
        return cls(inside, is_box=True)


def dilated(inside: BoolArray, spacing_mm: Sequence[float], reach_mm: float) -> BoolArray:
    """Add all voxels whose centre lies within a distance of the region, shape kept."""
    if reach_mm <= 0:
        return inside
    # The distance is needed near the region only, and a whole breast scan is large.
    index = np.argwhere(inside)
    margin = np.ceil(reach_mm / np.asarray(spacing_mm)).astype(int)
    low, high = np.maximum(index.min(axis=0) - margin, 0), np.minimum(index.max(axis=0) + margin + 1, inside.shape)
    box = tuple(slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    result = np.zeros_like(inside)
    result[box] = distance_transform_edt(~inside[box], sampling=spacing_mm) <= reach_mm
    return result


def tissue_segmenter(root: Path | None = None, device: str | torch.device = "cpu") -> Segmenter | None:
    """Load the tissue segmenter beside a model, else the default one; ``None`` where there is neither.

    Args:
        root: Where models were asked for, see `locate_model`.
        device: Torch device.
    """
    for place in dict.fromkeys((root, None)):
        with contextlib.suppress(CheckpointError):
            return Segmenter.load(locate_model("segmenter", place), device)
    return None


def breast_mask(volume: Volume, segmenter: Segmenter | None) -> BoolArray:
    """Return the breast as the tissue segmenter sees it, closed and filled; without one, all that is not air.

    A lesion in it may be no tissue that the segmenter knows, so gaps are closed and holes are filled slice by slice.
    """
    if segmenter is None:
        return body(volume.voxels)
    labels = segment_volume(volume, segmenter).voxels > 0
    axis = int(np.argmax(np.round(volume.spacing_mm, 3)[::-1]))
    slices = np.moveaxis(labels, 2 - axis, 0)
    filled = np.stack([binary_fill_holes(binary_closing(one, iterations=2)) for one in slices])
    return np.asarray(np.moveaxis(filled, 0, 2 - axis) | labels)


def may_change(asked: AskedRegion, breast: BoolArray, spacing_mm: Sequence[float], reach_mm: float) -> BoolArray:
    """Return the voxels that an edit may change: the region dilated in mm, inside the breast.

    Raises:
        RequestError: None of it lies in the breast.
    """
    region = dilated(asked.inside, spacing_mm, reach_mm) & breast
    if not (region & asked.inside).any():
        raise RequestError("The region does not lie in the breast.", "Move it into breast tissue.")
    return region
