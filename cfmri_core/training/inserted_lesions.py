"""Lesions put into scans without any, as training data: shapes of a few known lesions, drawn by the lesion editor.

The shapes are those of the few lesions alone. What fills them is what the editor learned, and it learned from other
lesions than these few: what comes of training with them is what is brought in from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor

from cfmri_core.data.lesion_scans import LesionScan, lesion_scan
from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import json_text
from cfmri_core.io.scan import read_scan
from cfmri_core.models.lesion_editor import LesionEditor
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.lesion_editing import edit_lesion
from cfmri_core.pipeline.lesion_method import DEFAULT_LESION_METHOD, LesionRequest, lesion_method
from cfmri_core.pipeline.lesion_region import AskedRegion, breast_mask
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, silent
from cfmri_core.training.counterfactuals import fingerprint, read_or_make
from cfmri_core.training.lesion_shapes import LesionShape, drawn_mask
from cfmri_core.volume import Volume

#: Label of fibroglandular tissue, where lesions are put.
_FIBROGLANDULAR = 2


@dataclass(frozen=True, kw_only=True)
class InsertionPlan:
    """Which lesions to insert, and where to keep the results.

    Attributes:
        editor: Inserts them; of the kind that the method needs.
        tissue: Tells fibroglandular tissue and the breast, as in use.
        per_scan: Lesions for each scan, each alone in a copy of it.
        method: One of `cfmri_core.pipeline.lesion_method.LESION_METHODS`.
        steps: Denoising steps; ``None`` takes the method's own.
        cache: Folder that keeps the results; ``None`` makes them anew. It holds images of patients, under names that
            say nothing about them.
    """

    editor: LesionEditor
    tissue: Segmenter
    per_scan: int = 1
    method: str = DEFAULT_LESION_METHOD
    steps: int | None = None
    cache: Path | None = None

    @property
    def request(self) -> LesionRequest:
        """The edit of every insertion, its seed aside."""
        return LesionRequest(mode="insert", method=self.method, steps=self.steps)


@dataclass(frozen=True)
class HealthyScan:
    """A scan without lesion: as the networks see it, and where it is on disk.

    Attributes:
        study: The study, read again when a lesion is to be inserted.
        scan: As the lesion segmenter sees it.
    """

    study: Study
    scan: LesionScan


@dataclass(frozen=True)
class Insertions:
    """Scans with inserted lesions.

    Attributes:
        scans: Their lesions are the masks that were asked for.
        skipped: Insertions that could not be made: no place had room, or the editor refused it.
    """

    scans: Sequence[LesionScan]
    skipped: int


def insertions(
    healthy: Sequence[HealthyScan],
    shapes: Sequence[LesionShape],
    plan: InsertionPlan,
    pixel_mm: float,
    seed: int,
    progress: Progress = silent,
) -> Insertions:
    """Insert lesions of known shapes into scans without any.

    The seed draws shape, pose, place and noise of each; what one becomes depends on its own scan, not on the others.

    Args:
        healthy: Scans without lesion.
        shapes: Of the known lesions.
        plan: Which lesions.
        pixel_mm: Side of a pixel of the result.
        seed: Of all that is drawn.
        progress: Called after each insertion.
    """
    found, total = [], plan.per_scan * len(healthy)
    for number, one in enumerate(healthy):
        inserter = _Inserter(one, shapes, plan, pixel_mm)
        for repeat in range(plan.per_scan):
            found.append(inserter.inserted(seed, repeat))
            progress(number * plan.per_scan + repeat + 1, total, "inserting lesions")
    made = [scan for scan in found if scan is not None]
    return Insertions(made, len(found) - len(made))


class _Inserter:
    """Inserts lesions into one scan, which is read and segmented only when a result is not kept yet."""

    def __init__(
        self, healthy: HealthyScan, shapes: Sequence[LesionShape], plan: InsertionPlan, pixel_mm: float
    ) -> None:
        self.healthy, self.shapes, self.plan, self.pixel_mm = healthy, shapes, plan, pixel_mm
        self.digest = fingerprint(healthy.scan.images, healthy.scan.parameters)
        self._read: tuple[Volume, NDArray[np.uint8], NDArray[np.bool_]] | None = None

    def inserted(self, seed: int, repeat: int) -> LesionScan | None:
        """Return the scan with one lesion; ``None`` if it could not be made."""
        scan = self.healthy.scan
        shape = torch.Size((2, *scan.images.shape))
        # An editor that was never saved has no checksum, so nothing tells its results from another's.
        if self.plan.cache is None or not self.plan.editor.sha256:
            images, mask = self._made(seed, repeat)
        else:
            key = self._key(seed, repeat)
            path = self.plan.cache / key[:2] / f"{key}.npy"
            images, mask = read_or_make(path, shape, lambda: self._made(seed, repeat))
        lesions = (mask > 0).to(torch.uint8)
        if not lesions.any():
            return None
        boxes = tuple(box for box in find_objects(lesions.numpy()) if box is not None)
        return dataclasses.replace(scan, images=images.half(), lesions=lesions, boxes=boxes)

    def _key(self, seed: int, repeat: int) -> str:
        masks = b"".join(np.packbits(shape.inside).tobytes() + shape.matrix.tobytes() for shape in self.shapes)
        decides = [
            self.plan.editor.sha256, self.plan.tissue.sha256, self.plan.request, lesion_method(self.plan.method),
            self.digest, hashlib.sha256(masks).hexdigest(), self.pixel_mm, seed, repeat,
        ]  # fmt: skip
        return hashlib.sha256(json_text(decides, indent=None).encode()).hexdigest()

    def _made(self, seed: int, repeat: int) -> Tensor:
        """Return images and mask, shape ``(2, slices, size, size)``; the mask is empty where nothing could be made."""
        scan = self.healthy.scan
        volume, labels, breast = self._source()
        rng = np.random.default_rng((seed, 21, int(self.digest[:16], 16), repeat))
        shape = self.shapes[int(rng.integers(len(self.shapes)))]
        mask = drawn_mask(shape, volume, labels == _FIBROGLANDULAR, breast, rng)
        nothing = torch.stack([scan.images, torch.zeros_like(scan.images)])
        if mask is None:
            return nothing
        request = dataclasses.replace(self.plan.request, seed=int(rng.integers(2**31)))
        try:
            edit = edit_lesion(
                volume, scan.parameters, AskedRegion(mask, is_box=False), request, self.plan.editor, breast
            )
        except RequestError:  # the region with its surroundings is wider than the editor's patch
            return nothing
        seen = lesion_scan(edit.volume, mask, breast, scan.parameters, self.pixel_mm)
        return torch.stack([seen.images, (seen.lesions > 0).half()])

    def _source(self) -> tuple[Volume, NDArray[np.uint8], NDArray[np.bool_]]:
        if self._read is None:
            volume = read_scan(self.healthy.study.scan_path).volume
            labels = np.asarray(segment_volume(volume, self.plan.tissue).voxels, dtype=np.uint8)
            self._read = volume, labels, breast_mask(volume, self.plan.tissue)
        return self._read
