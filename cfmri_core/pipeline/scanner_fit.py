"""Learn how the scanners of a site differ from the simulated ones, from scans that were acquired once.

A simulator can only guess how much fat the suppression of a scanner leaves. Patients do not know which scanner they
will lie in: shown under one and the same protocol, the scans of each model must have the same contrast of fat and gland
on average. Where they do not, the editor takes the model for another than it is. What it misreads in simulated scans
too is not the scanner's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.errors import CfmriError, RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.scanners import Scanners
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.image_editing import read_maps
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import SliceStack, normalised_images, slab
from cfmri_core.volume import Volume

#: Under what all scans are shown; any protocol would do.
_SHOWN_UNDER = PRESETS["ge-mr450w-1.5t"]
#: Slices in the middle of a volume that are looked at.
_SLICES = 16
#: Least pixels of fat and of gland, away from their borders, that a contrast is measured on.
_LEAST_PIXELS = 100
#: How far scanners are expected to lie apart, standard deviation of the logarithm: a few scans move an estimate less.
#: Chosen between this and no limit on 24 simulated subjects of another setting that judge nothing.
_SPREAD = 0.15

#: Contrasts by scanner model, one per scan, see `fat_contrast`.
Contrasts = Mapping[str, Sequence[float]]


def fat_contrast(
    volume: Volume, parameters: AcquisitionParameters, editor: DirectEditor, segmenter: Segmenter
) -> float | None:
    """Logarithm of the brightness of fat over that of gland, shown under a protocol that is the same for all scans.

    Args:
        volume: A scan.
        parameters: How it was acquired.
        editor: Trained direct editor.
        segmenter: Tells fat from gland.

    Returns:
        ``None`` where the scan shows too little of either.
    """
    axis = SliceStack.of(volume, editor.image_size).slice_axis
    first = max(0, (volume.shape[axis] - _SLICES) // 2)
    middle = slab(volume, axis, first, min(volume.shape[axis], first + _SLICES))
    images, stack, _ = normalised_images(middle, editor.image_size)
    labels = stack.label_images(np.asarray(stack.native(segment_volume(middle, segmenter).voxels)))
    with torch.inference_mode():
        maps = read_maps(images, parameters, editor).to(editor.device)
        shown = editor.images(maps, [_SHOWN_UNDER])[:, 0].cpu().numpy()
    brightness = [_median_inside(shown, labels.numpy() == tissue) for tissue in (1, 2)]
    if brightness[0] is None or brightness[1] is None:
        return None
    return math.log(brightness[0] / brightness[1])


def contrasts_by_model(
    studies: Sequence[Study], editor: DirectEditor, segmenter: Segmenter, progress: Progress = silent
) -> tuple[dict[str, list[float]], int]:
    """Measure the contrast of scans.

    Returns:
        Contrasts by scanner model, and how many scans were left out: they cannot be read, name no model, or show too
        little of the breast.
    """
    found: dict[str, list[float]] = {}
    left_out = 0
    for number, study in enumerate(studies, 1):
        try:
            model, contrast = _contrast_of(study, editor, segmenter)
        except CfmriError:
            model, contrast = None, None
        if model is None or contrast is None:
            left_out += 1
        else:
            found.setdefault(model, []).append(contrast)
        progress(number, len(studies), "reading scans")
    return found, left_out


def _contrast_of(study: Study, editor: DirectEditor, segmenter: Segmenter) -> tuple[str | None, float | None]:
    scan = read_scan(study.scan_path)
    stated = study.acquisition.known() if study.acquisition else {}
    parameters = scan.acquisition.parameters.replaced(stated)
    if parameters.manufacturer_model is None:
        return None, None
    return parameters.manufacturer_model, fat_contrast(scan.volume, parameters, editor, segmenter)


def require_comparable(scans: Contrasts, left_out: int) -> None:
    """Refuse scans that tell nothing about differences between scanners.

    Raises:
        RequestError: They are of fewer than two scanner models.
    """
    if len(scans) < 2:
        raise RequestError(
            f"The scans that can be used are of {len(scans)} scanner model(s); {left_out} were left out.",
            "Give scans of two models or more: only differences between scanners can be told from patients' scans.",
        )


def fit_scanners(scans: Contrasts, simulated: Contrasts) -> Scanners:
    """Tell from contrasts how much fat each scanner model leaves, relative to what the editor takes it to leave.

    Args:
        scans: Of the site.
        simulated: Of scans like those of the editor's training. A model that is not among them is compared with all.
    """
    everyone = [value for values in simulated.values() for value in values]
    noise = [_within_variance(contrasts) for contrasts in (scans, simulated)]
    differences, errors = {}, {}
    for model, values in scans.items():
        expected = simulated.get(model) or everyone
        differences[model] = fmean(values) - fmean(expected)
        errors[model] = noise[0] / len(values) + noise[1] / len(expected)
    weights = [1 / (error + _SPREAD**2) for error in errors.values()]
    common = float(np.average(list(differences.values()), weights=weights))
    believed = {model: _SPREAD**2 / (_SPREAD**2 + error) for model, error in errors.items()}
    fat = {model: believed[model] * (differences[model] - common) for model in scans}
    return Scanners(fat, {model: len(values) for model, values in scans.items()})


def _within_variance(contrasts: Contrasts) -> float:
    """Variance between the scans of one model, as of the scanners where no model has two scans."""
    squares = [pvariance(values) * len(values) for values in contrasts.values()]
    freedom = sum(len(values) - 1 for values in contrasts.values())
    return sum(squares) / freedom if freedom else _SPREAD**2


def _median_inside(shown: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float | None:
    inside = binary_erosion(tissue, np.ones((1, 3, 3), bool))
    return float(np.median(shown[inside])) if inside.sum() >= _LEAST_PIXELS else None
