"""Scans with known lesions as arrays at a network's pixel size, and the patches that are cut from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch import Tensor
from torch.nn.functional import pad

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study, read_labels
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack
from cfmri_core.volume import Volume


@dataclass(frozen=True)
class LesionScan:
    """One scan, slice by slice.

    Attributes:
        images: Normalised intensity, float16, shape ``(slices, size, size)``.
        lesions: Number of the lesion of each pixel, 0 where there is none, uint8, same shape.
        breast: Whether a pixel belongs to a breast, bool, same shape.
        parameters: Acquisition parameters.
        boxes: First and one past the last slice, row and column of each lesion.
    """

    images: Tensor
    lesions: Tensor
    breast: Tensor
    parameters: AcquisitionParameters
    boxes: tuple[tuple[slice, slice, slice], ...]

    def patch(self, which: Tensor, number: int, centre: tuple[int, int], size: int) -> Tensor:
        """Cut a square patch out of a slice; what lies outside the image is 0.

        Args:
            which: One of the arrays of this scan.
            number: The slice.
            centre: Row and column of the patch's middle.
            size: Side in pixels.

        Returns:
            Patch, float32, shape ``(size, size)``.
        """
        return cut(which[number][None, None].float(), centre, size)[0, 0]


def working_stack(volume: Volume, pixel_mm: float) -> SliceStack:
    """Lay out a volume as square images whose pixels have about that size."""
    whole = SliceStack.of(volume, 1)
    spacing = volume.spacing_mm
    extent = max(volume.shape[axis] * spacing[axis] for axis in (whole.row_axis, whole.column_axis))
    return SliceStack.of(volume, max(1, round(extent / pixel_mm)))


def cut(images: Tensor, centre: tuple[int, int], size: int) -> Tensor:
    """Cut the same square out of images ``(slices, channels, rows, columns)``; outside them is 0."""
    top, left = centre[0] - size // 2, centre[1] - size // 2
    rows, columns = images.shape[-2:]
    inner = images[..., max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)]
    sides = (-left, left + size - columns, -top, top + size - rows)
    return pad(inner, [max(0, side) for side in sides])


def paste(images: Tensor, patch: Tensor, centre: tuple[int, int]) -> Tensor:
    """Undo `cut`: return the images with the patch in its place."""
    result, size = images.clone(), patch.shape[-1]
    top, left = centre[0] - size // 2, centre[1] - size // 2
    rows, columns = images.shape[-2:]
    above, before = max(0, -top), max(0, -left)
    below, after = max(0, top + size - rows), max(0, left + size - columns)
    inner = patch[..., above : size - below, before : size - after]
    result[..., max(top, 0) : top + size - below, max(left, 0) : left + size - after] = inner
    return result


def load_lesion_scans(studies: Sequence[Study], pixel_mm: float, progress: Progress = silent) -> list[LesionScan]:
    """Read the studies whose lesions are known.

    Args:
        studies: Those without a lesion mask are left out.
        pixel_mm: Side of a pixel.
        progress: Called after each study.

    Raises:
        RequestError: No study has a lesion mask.
        CfmriError: A study cannot be read.
    """
    usable = [study for study in studies if study.lesion_path]
    if not usable:
        raise RequestError("No study has a lesion mask.", "Put lesion.nii.gz beside the series.")
    return [_loaded(study, pixel_mm, number, len(usable), progress) for number, study in enumerate(usable, 1)]


def load_healthy_scans(studies: Sequence[Study], pixel_mm: float, progress: Progress = silent) -> list[LesionScan]:
    """Read studies that show no lesion.

    Args:
        studies: All of them are read.
        pixel_mm: Side of a pixel.
        progress: Called after each study.

    Raises:
        RequestError: A study has a lesion mask.
        CfmriError: A study cannot be read.
    """
    for study in studies:
        if study.lesion_path:
            raise RequestError(f"{study.subject_id} has a lesion mask.", "Give studies without lesions.")
    return [_loaded(study, pixel_mm, number, len(studies), progress) for number, study in enumerate(studies, 1)]


def _loaded(study: Study, pixel_mm: float, number: int, total: int, progress: Progress) -> LesionScan:
    scan = read_scan(study.scan_path)
    known = study.acquisition or AcquisitionParameters()
    mask = read_lesion_mask(study, scan.volume) if study.lesion_path else np.zeros(scan.volume.shape, bool)
    parameters = scan.acquisition.parameters.replaced(known.known())
    breast = breast_labels(study, scan.volume)
    if breast is not None and not breast.any():
        raise RequestError(f"{study.labels_path} marks no tissue.", "Label the breast, or leave the file out.")
    loaded = lesion_scan(scan.volume, mask, breast, parameters, pixel_mm)
    progress(number, total, study.subject_id)
    return loaded


def read_lesion_mask(study: Study, volume: Volume) -> NDArray[np.bool_]:
    """Read a study's lesion mask, shape of its scan.

    Raises:
        GeometryError: It lies on another grid than the scan.
        RequestError: The study has none.
    """
    if study.lesion_path is None:
        raise RequestError(f"{study.subject_id} has no lesion mask.", "Put lesion.nii.gz beside the series.")
    mask = read_nifti(study.lesion_path)
    if not mask.has_same_grid(volume, tolerance_mm=0.1):
        raise GeometryError(f"{study.lesion_path} lies on another grid than its scan.", "Resample the mask first.")
    return np.asarray(mask.voxels > 0)


def breast_labels(study: Study, volume: Volume) -> NDArray[np.bool_] | None:
    """Return the breast according to a study's tissue labels, shape of its scan; ``None`` without labels."""
    return None if study.labels_path is None else np.asarray(read_labels(study, volume).voxels > 0)


def lesion_scan(
    volume: Volume,
    lesion: NDArray[np.bool_],
    breast: NDArray[np.bool_] | None,
    parameters: AcquisitionParameters,
    pixel_mm: float,
) -> LesionScan:
    """Lay out a scan with its lesions; an unknown breast is all that is not air."""
    stack, scale = working_stack(volume, pixel_mm), IntensityScale.of(volume.voxels)
    images = stack.images(scale.normalise(np.asarray(stack.native(volume.voxels))))[:, 0]
    numbers, count = label(lesion)
    lesions = stack.label_images(np.asarray(stack.native(numbers.astype(np.uint8)))).to(torch.uint8)
    shown = body(volume.voxels) if breast is None else breast
    mask = stack.label_images(np.asarray(stack.native(shown.astype(np.uint8)))) > 0
    boxes = tuple(box for box in find_objects(lesions.numpy(), count) if box is not None)
    return LesionScan(images.half(), lesions, mask, parameters, boxes)


def body(voxels: NDArray[Any]) -> NDArray[np.bool_]:
    """All that is brighter than air, as far as intensity tells."""
    scale = IntensityScale.of(voxels)
    return np.asarray(scale.normalise(voxels) > 0.05)
