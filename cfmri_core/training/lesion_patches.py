"""Draw training patches from scans with known lesions: with a lesion told by its mask or by a box, and without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cfmri_core.data.lesion_scans import LesionScan
from cfmri_core.errors import RequestError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.lesion_editor import MASK_VALUE, box_value

#: Share of patches that hold a lesion; the others teach what breasts look like where there is none.
LESION_SHARE = 0.6
#: Share of the patches whose lesions are told by boxes, and by how many pixels a box is larger than its lesion.
BOX_SHARE, BOX_MARGIN = 0.5, (0, 2)
#: How far a lesion lies from the middle of its patch, in pixels.
_OFF_CENTRE = 7
#: Share of patches without any acquisition parameter.
UNCONDITIONAL_SHARE = 0.1

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class PatchBatch:
    """Patches of one training step.

    Attributes:
        images: Normalised intensity, float32, shape ``(batch, 1, size, size)``.
        lesion: Lesion channel, same shape, see `cfmri_core.models.lesion_editor`.
        breast: 1 in the breast, same shape.
        region: 1 where a lesion is or, in a patch without, might have been, same shape.
        condition: Condition vectors, shape ``(batch, width)``.
    """

    images: Tensor
    lesion: Tensor
    breast: Tensor
    region: Tensor
    condition: Tensor


@dataclass(frozen=True)
class _Place:
    scan: int
    slice: int
    box: int


class PatchSource:
    """Scans from which patches are drawn.

    Args:
        scans: With their lesions.
        size: Side of a patch in pixels.
        spec: Meaning of the condition vectors.

    Raises:
        RequestError: No scan has a lesion.
    """

    def __init__(self, scans: Sequence[LesionScan], size: int, spec: ConditionSpec) -> None:
        self.scans, self.size = scans, size
        self.conditions = spec.encode_all([scan.parameters for scan in scans])
        self.places = [
            _Place(n, k, box)
            for n, scan in enumerate(scans)
            for box, extent in enumerate(scan.boxes)
            for k in range(max(0, extent[0].start - 1), min(len(scan.images), extent[0].stop + 1))
        ]
        if not self.places:
            raise RequestError("No scan has a lesion.", "Give studies with lesion masks.")
        self.breast = [scan.breast.nonzero() for scan in scans]

    def draw(self, count: int, generator: torch.Generator) -> PatchBatch:
        """Draw a batch of patches."""
        items = [self._item(generator) for _ in range(count)]
        stacked = [torch.stack(parts)[:, None] for parts in zip(*[item[0] for item in items], strict=True)]
        condition = torch.stack([self.conditions[item[1]] for item in items])
        known = torch.rand(count, 1, generator=generator) >= UNCONDITIONAL_SHARE
        mirrored = (torch.rand(count, generator=generator) < 0.5)[:, None, None, None]
        images, lesion, breast, region = (torch.where(mirrored, part.flip(-1), part) for part in stacked)
        return PatchBatch(images, lesion, breast, region, condition * known)

    def _item(self, generator: torch.Generator) -> tuple[tuple[Tensor, ...], int]:
        place = self.places[_integer(generator, 0, len(self.places))]
        as_box = float(torch.rand((), generator=generator)) < BOX_SHARE
        if float(torch.rand((), generator=generator)) < LESION_SHARE:
            scan = self.scans[place.scan]
            centre = self._near(scan.boxes[place.box], generator)
            channel = self._channel(scan, place.slice, centre, as_box, generator)
            number, k, region = place.scan, place.slice, (channel > 0).float()
        else:
            number = _integer(generator, 0, len(self.scans))
            scan, inside = self.scans[number], self.breast[number]
            k, row, column = (int(value) for value in inside[_integer(generator, 0, len(inside))])
            centre = (row, column)
            channel = self._channel(scan, k, centre, as_box, generator)
            region = self._shape_of(place, as_box, generator)
        images, breast = (scan.patch(which, k, centre, self.size) for which in (scan.images, scan.breast))
        return (images, channel, breast, region), number

    def _near(self, box: tuple[slice, slice, slice], generator: torch.Generator) -> tuple[int, int]:
        row, column = ((side.start + side.stop) // 2 + _integer(generator, -_OFF_CENTRE, _OFF_CENTRE + 1)
                       for side in box[1:])  # fmt: skip
        return row, column

    def _channel(
        self, scan: LesionScan, k: int, centre: tuple[int, int], as_box: bool, generator: torch.Generator
    ) -> Tensor:
        """The lesion channel of a patch: every lesion in it is told, all by mask or all by box."""
        if not as_box:
            return MASK_VALUE * (scan.patch(scan.lesions, k, centre, self.size) > 0).float()
        corner = (centre[0] - self.size // 2, centre[1] - self.size // 2)
        boxes = [_enlarged(box, generator) for box in scan.boxes]
        return box_channel(boxes, k, corner, self.size)

    def _shape_of(self, place: _Place, as_box: bool, generator: torch.Generator) -> Tensor:
        """The shape of some lesion, near the middle of a patch without: a region that a lesion might have had."""
        scan = self.scans[place.scan]
        centre = self._near(scan.boxes[place.box], generator)
        return (self._channel(scan, place.slice, centre, as_box, generator) > 0).float()


def box_channel(boxes: Sequence[Box], k: int, corner: tuple[int, int], size: int) -> Tensor:
    """Return the lesion channel of boxes in one slice, float32, shape ``(size, size)``.

    Args:
        boxes: First and one past the last slice, row and column of each.
        k: Number of the slice.
        corner: Row and column of the patch's first pixel.
        size: Side of the patch.
    """
    channel = torch.zeros(size, size)
    for (first, last), *sides in boxes:
        if first <= k < last:
            height = (k - (first + last - 1) / 2) / ((last - first) / 2)
            inside = tuple(
                slice(max(0, start - at), max(0, stop - at)) for (start, stop), at in zip(sides, corner, strict=True)
            )
            channel[inside] = box_value(height)
    return channel


def _enlarged(box: tuple[slice, slice, slice], generator: torch.Generator) -> Box:
    """A box that is larger than its lesion by a few pixels on each side, half as much across slices."""
    low, high = BOX_MARGIN
    sides = []
    for side, across in zip(box, (2, 1, 1), strict=True):
        before, after = (_integer(generator, low, high + 1) // across for _ in range(2))
        sides.append((side.start - before, side.stop + after))
    return sides[0], sides[1], sides[2]


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high, (), generator=generator))
