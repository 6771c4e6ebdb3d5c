"""A volume as the stack of normalised square images that the networks see, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad

from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.volume import Volume

#: Percentiles of a volume that are mapped to 0 and 1, as in Morão et al. (there per slice).
LOW_PERCENTILE, HIGH_PERCENTILE = 10.0, 99.0

#: For slices across world axis 0 (R), 1 (A), 2 (S): world axes of rows and columns and the sign each runs along, so
#: that rows run to the back (axial) or to the feet, columns to the left (axial, coronal) or to the back.
_VIEW = {2: ((1, -1), (0, -1)), 1: ((2, -1), (0, -1)), 0: ((2, -1), (1, -1))}


@dataclass(frozen=True)
class IntensityScale:
    """Linear map between scanner units and normalised intensity, one for a whole volume.

    One scale per volume, not per slice: a scale per slice gives neighbouring slices another gain,
    which shows as flicker.
    """

    low: float
    high: float

    @classmethod
    def of(cls, voxels: NDArray[Any]) -> IntensityScale:
        """Scale that maps the 10th percentile to 0 and the 99th to 1.

        Raises:
            GeometryError: The image is constant, or nearly empty.
        """
        low, high = np.percentile(voxels, [LOW_PERCENTILE, HIGH_PERCENTILE])
        if not high > low:
            high = float(np.max(voxels))
        if not high > low:
            raise GeometryError("The image is constant.", "Choose a series that shows anatomy.")
        return cls(float(low), float(high))

    def normalise(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        """Scanner units to normalised intensity, float32."""
        return ((voxels.astype(np.float32) - self.low) / (self.high - self.low)).astype(np.float32)

    def restore(self, normalised: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalised intensity to scanner units, float32."""
        return (normalised * (self.high - self.low) + self.low).astype(np.float32)


def is_constant(volume: Volume) -> bool:
    """Whether a volume has no intensity scale of its own."""
    try:
        IntensityScale.of(volume.voxels)
    except GeometryError:
        return True
    return False


def slice_axis(volume: Volume) -> int:
    """Return the voxel axis across which a volume has its slices: that of the widest spacing, the last on a tie."""
    return int(2 - np.argmax(np.round(volume.spacing_mm, 3)[::-1]))


def slices_last(volume: Volume) -> NDArray[Any]:
    """View voxels with the slices along the last axis, for measures that tell in-plane from across slices by axis."""
    return np.moveaxis(volume.voxels, slice_axis(volume), -1)


@dataclass(frozen=True)
class SliceStack:
    """How one grid maps to square images.

    Attributes:
        shape: Shape of the volume.
        slice_axis: Voxel axis across which slices are taken, see `slice_axis`.
        row_axis: Voxel axis that becomes image rows.
        column_axis: Voxel axis that becomes image columns.
        flips: Whether rows and columns run against their voxel axis.
        resized: Rows and columns after resampling to square pixels, before padding.
        image_size: Side of the square images.
        keeps_aspect: Whether the field of view is padded to the square; if not, it is stretched over it.
    """

    shape: tuple[int, int, int]
    slice_axis: int
    row_axis: int
    column_axis: int
    flips: tuple[bool, bool]
    resized: tuple[int, int]
    image_size: int
    keeps_aspect: bool = True

    @classmethod
    def of(cls, volume: Volume, image_size: int, keeps_aspect: bool = True) -> SliceStack:
        """Lay out a volume: whole field of view inside the square."""
        return cls.of_axis(volume, image_size, slice_axis(volume), keeps_aspect)

    @classmethod
    def of_axis(cls, volume: Volume, image_size: int, slice_axis: int, keeps_aspect: bool = True) -> SliceStack:
        """Lay out a volume with slices taken across a given voxel axis."""
        orientation = io_orientation(volume.affine)
        row, column = _VIEW[int(orientation[slice_axis, 0])]
        axes = [int(np.flatnonzero(orientation[:, 0] == world)[0]) for world, _ in (row, column)]
        flips = tuple(bool(orientation[axis, 1] != sign) for axis, (_, sign) in zip(axes, (row, column), strict=True))
        extent = [volume.shape[axis] * volume.spacing_mm[axis] for axis in axes]
        pixel = max(extent) / image_size
        fitted = (max(1, round(extent[0] / pixel)), max(1, round(extent[1] / pixel)))
        resized = fitted if keeps_aspect else (image_size, image_size)
        return cls(volume.shape, slice_axis, axes[0], axes[1], (flips[0], flips[1]), resized, image_size, keeps_aspect)

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.slice_axis]

    def native(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """View voxels as slices, shape ``(slices, rows, columns)``, in display orientation."""
        view = np.transpose(voxels, (self.slice_axis, self.row_axis, self.column_axis))
        return view[:, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]

    def voxels(self, slices: NDArray[Any]) -> NDArray[Any]:
        """Undo `native`."""
        view = slices[:, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]
        order = (self.slice_axis, self.row_axis, self.column_axis)
        return np.ascontiguousarray(np.transpose(view, np.argsort(order)))

    def images(self, slices: NDArray[np.float32]) -> Tensor:
        """Resample slices ``(slices, rows, columns)`` to images ``(slices, 1, size, size)``, padded with 0.

        Stretched images are averaged over areas, as in the code of the paper (arXiv 2410.23835).
        """
        tensor = torch.from_numpy(np.ascontiguousarray(slices, dtype=np.float32))[:, None]
        if not self.keeps_aspect:
            return interpolate(tensor, size=self.resized, mode="area")
        if tuple(tensor.shape[2:]) != self.resized:
            tensor = interpolate(tensor, size=self.resized, mode="bilinear", antialias=True, align_corners=False)
        return pad(tensor, self._padding())

    def label_images(self, slices: NDArray[np.uint8]) -> Tensor:
        """Resample label slices to int64 images ``(slices, size, size)``, nearest neighbour."""
        tensor = torch.from_numpy(np.ascontiguousarray(slices))[:, None].float()
        return pad(interpolate(tensor, size=self.resized, mode="nearest-exact"), self._padding())[:, 0].long()

    def mask_images(self, mask: NDArray[np.bool_]) -> Tensor:
        """Resample mask slices to bool images ``(slices, size, size)``: nearest neighbour, and no slice becomes empty.

        A slice in which no pixel has its centre in the mask gets the pixels that the mask covers most, down to half of
        the largest cover.
        """
        found = self.label_images(mask.astype(np.uint8)) > 0
        lost = np.flatnonzero(mask.any(axis=(1, 2)) & ~found.flatten(1).any(dim=1).numpy())
        if lost.size:
            cover = interpolate(torch.from_numpy(mask[lost]).float()[:, None], size=self.resized, mode="area")
            found[torch.from_numpy(lost)] = pad(cover >= cover.amax(dim=(2, 3), keepdim=True) / 2, self._padding())[
                :, 0
            ]
        return found

    def at_native_size(self, images: Tensor) -> NDArray[np.float32]:
        """Crop the padding and resample images ``(slices, channels, size, size)`` to native rows and columns."""
        left, _, top, _ = self._padding()
        inner = images[:, :, top : top + self.resized[0], left : left + self.resized[1]].float()
        size = (self.shape[self.row_axis], self.shape[self.column_axis])
        if size != self.resized:
            inner = interpolate(inner, size=size, mode="bilinear", antialias=True, align_corners=False)
        return np.asarray(inner.cpu().numpy(), dtype=np.float32)

    def _padding(self) -> tuple[int, int, int, int]:
        (rows, columns), size = self.resized, self.image_size
        top, left = (size - rows) // 2, (size - columns) // 2
        return left, size - columns - left, top, size - rows - top


def normalised_images(
    volume: Volume, image_size: int, keeps_aspect: bool = True
) -> tuple[Tensor, SliceStack, IntensityScale]:
    """A volume as network input: images ``(slices, 1, size, size)``, with the layout and scale to go back."""
    stack, scale = SliceStack.of(volume, image_size, keeps_aspect), IntensityScale.of(volume.voxels)
    return stack.images(scale.normalise(np.asarray(stack.native(volume.voxels)))), stack, scale


def slab(volume: Volume, axis: int, first: int, last: int) -> Volume:
    """Crop a volume to the slices ``first`` to ``last - 1`` of an axis; the affine keeps them in place.

    Raises:
        RequestError: The range is empty or leaves the volume.
    """
    count = volume.shape[axis]
    if not 0 <= first < last <= count:
        raise RequestError(
            f"Slices {first}:{last} do not lie in 0:{count}.",
            f"Give K from 0 to {count - 1}, or A:B with A < B <= {count}.",
        )
    index = [slice(None)] * 3
    index[axis] = slice(first, last)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, axis] * first
    return Volume(np.ascontiguousarray(volume.voxels[tuple(index)]), affine)
