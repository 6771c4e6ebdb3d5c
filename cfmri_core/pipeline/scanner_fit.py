"""Learn how the scanners of a site differ from the simulated ones, from scans that were acquired once.

A simulator can only guess how much fat the suppression of a scanner leaves. Shown under one and the same protocol, the
scans of each model must have the same contrast of fat and gland on average, if the patients of each are alike. Where
they do not, the editor takes the model for another than it is. What it misreads in simulated scans under the same
parameters too is not the scanner's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.errors import AcquisitionError, DicomReadError, GeometryError, RequestError
from cfmri_core.io.scan import read_scan
from cfmri_core.models.conditioning import CONTINUOUS
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.scanners import Scanners
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.models.signal_decoder import suppresses_fat
from cfmri_core.pipeline.image_editing import read_maps
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan
from cfmri_core.slices import SliceStack, normalised_images, slab
from cfmri_core.volume import Volume

#: Under what all scans are shown: any protocol that suppresses fat would do for the contrast, but the shipped
#: segmenter, which has to find fat and gland in what is shown, learned from scans of this manufacturer.
_SHOWN_UNDER = PRESETS["ge-hdxt-1.5t"]
#: Slices in the middle of a volume that are looked at, and as much of a simulated body.
_SLICES, _SLAB_MM = 16, 24.0
#: Least voxels of fat and of gland, away from their borders, that a contrast is measured on.
_LEAST_VOXELS = 100
#: How far scanners are expected to lie apart, standard deviation of the logarithm: few patients move an estimate less.
#: Chosen, not fitted.
_SPREAD = 0.15
#: Simulated subjects that scans are compared with; no training or evaluation uses them.
_SIMULATED_SEED = 132_000

#: Contrasts by scanner model, one per patient, see `fat_contrast`.
Contrasts = Mapping[str, Sequence[float]]


@dataclass
class SiteScans:
    """What was found in the scans of a site.

    Attributes:
        contrasts: By scanner model, the mean of each patient's scans.
        parameters: How the scans that count were acquired.
        left_out: Number of scans that do not count, by reason.
    """

    contrasts: dict[str, list[float]] = field(default_factory=dict)
    parameters: list[AcquisitionParameters] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def fat_contrast(
    volume: Volume, parameters: AcquisitionParameters, editor: DirectEditor, segmenter: Segmenter
) -> float | None:
    """Logarithm of the brightness of fat over that of gland, shown under a protocol that is the same for all scans.

    Args:
        volume: A scan.
        parameters: How it was acquired.
        editor: Trained direct editor.
        segmenter: Tells fat from gland, in the scan as it is shown.

    Returns:
        ``None`` where the scan shows too little of either.
    """
    axis = SliceStack.of(volume, editor.image_size).slice_axis
    first = max(0, (volume.shape[axis] - _SLICES) // 2)
    middle = slab(volume, axis, first, min(volume.shape[axis], first + _SLICES))
    images, stack, _ = normalised_images(middle, editor.image_size)
    with torch.inference_mode():
        maps = read_maps(images, parameters, editor).to(editor.device)
        shown = stack.at_native_size(editor.images(maps, [_SHOWN_UNDER]))[:, 0]
    labels = stack.native(segment_volume(middle.with_voxels(stack.voxels(shown)), segmenter).voxels)
    fat, gland = (_median_inside(shown, labels == tissue) for tissue in (1, 2))
    return None if fat is None or gland is None else math.log(fat / gland)


def site_contrasts(
    studies: Sequence[Study], editor: DirectEditor, segmenter: Segmenter, progress: Progress = silent
) -> SiteScans:
    """Measure the contrast of a site's scans.

    Raises:
        RequestError: Those that count are of fewer than two scanner models.
    """
    found = SiteScans()
    by_patient: dict[tuple[str, str], list[float]] = {}
    for number, study in enumerate(studies, 1):
        try:
            read = read_scan(study.scan_path)
            stated = study.acquisition.known() if study.acquisition else {}
            parameters = _with_options(read.acquisition.parameters.replaced(stated))
            contrast, reason = _contrast_or_reason(read.volume, parameters, editor, segmenter)
        except (DicomReadError, GeometryError, AcquisitionError):
            contrast, reason = None, "cannot be read"
        if contrast is None:
            found.left_out[reason] += 1
        else:
            by_patient.setdefault((str(parameters.manufacturer_model), study.patient), []).append(contrast)
            found.parameters.append(parameters)
        progress(number, len(studies), "reading scans")
    for (model, _), values in sorted(by_patient.items()):
        found.contrasts.setdefault(model, []).append(fmean(values))
    if len(found.contrasts) < 2:
        why = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items()) or "none"
        raise RequestError(
            f"The scans that count are of {len(found.contrasts)} scanner model(s); left out: {why}.",
            "Give scans of two models or more: only differences between scanners can be told from patients' scans.",
        )
    return found


def simulated_contrasts(
    parameters: Sequence[AcquisitionParameters],
    subjects: int,
    editor: DirectEditor,
    segmenter: Segmenter,
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Measure the contrast of simulated scans, acquired as a site's scans were.

    Args:
        parameters: Of the site's scans; each subject takes one. Those the simulator cannot scan are passed over.
        subjects: How many.
        editor: As for `fat_contrast`.
        segmenter: As for `fat_contrast`.
        progress: Called after each subject.

    Raises:
        RequestError: No header is complete, or no simulated scan shows a breast to the segmenter.
    """
    found: dict[str, list[float]] = {}
    needed = (*CONTINUOUS, "field_strength_t")
    complete = [one for one in parameters if all(getattr(one, name) is not None for name in needed)]
    # Every scanner gets its share, however the scans are sorted.
    order = np.random.default_rng(_SIMULATED_SEED).permutation(len(complete))
    for number in range(subjects if complete else 0):
        one, seed = _with_options(complete[order[number % len(complete)]]), _SIMULATED_SEED + number
        anatomy = generate_anatomy(seed, slab_mm=_SLAB_MM)
        made = scan(anatomy, draw_subject(anatomy, seed), one, noise_seed=seed)
        contrast = fat_contrast(made, one, editor, segmenter)
        if contrast is not None:
            found.setdefault(str(one.manufacturer_model), []).append(contrast)
        progress(number + 1, subjects, "simulating scans to compare with")
    if not found:
        raise RequestError(
            "Nothing simulated could be compared with the scans.",
            "Their headers must give field strength, echo and repetition time, flip angle and slice thickness.",
        )
    return found


def fit_scanners(scans: Contrasts, simulated: Contrasts) -> Scanners:
    """Tell from contrasts how much fat each scanner model leaves, relative to what the editor takes it to leave.

    Args:
        scans: Of the site.
        simulated: Of simulated scans, not empty. A model that is not among them is compared with all.
    """
    everyone = [value for values in simulated.values() for value in values]
    variance = _within_variance([*scans.values(), *simulated.values()])
    differences, errors = {}, {}
    for model, values in scans.items():
        expected = simulated.get(model) or everyone
        differences[model] = fmean(values) - fmean(expected)
        errors[model] = variance / len(values) + variance / len(expected)
    weights = [1 / (error + _SPREAD**2) for error in errors.values()]
    common = float(np.average(list(differences.values()), weights=weights))
    believed = {model: _SPREAD**2 / (_SPREAD**2 + error) for model, error in errors.items()}
    fat = {model: believed[model] * (differences[model] - common) for model in scans}
    return Scanners(fat, {model: len(values) for model, values in scans.items()})


def _contrast_or_reason(
    volume: Volume, parameters: AcquisitionParameters, editor: DirectEditor, segmenter: Segmenter
) -> tuple[float | None, str]:
    if parameters.manufacturer_model is None:
        return None, "name no scanner model"
    if not suppresses_fat(parameters.scan_options):
        return None, "do not suppress fat"
    return fat_contrast(volume, parameters, editor, segmenter), "show too little of a breast"


def _with_options(parameters: AcquisitionParameters) -> AcquisitionParameters:
    """Say what `suppresses_fat` assumes where a header does not: the simulator takes silence for no suppression."""
    return parameters if parameters.scan_options else parameters.replaced({"scan_options": "FS"})


def _within_variance(groups: Sequence[Sequence[float]]) -> float:
    """Variance between patients of one scanner model, pooled over all models."""
    squares = sum((value - fmean(values)) ** 2 for values in groups for value in values)
    return squares / max(1, sum(len(values) - 1 for values in groups))


def _median_inside(shown: NDArray[np.float32], tissue: NDArray[np.bool_]) -> float | None:
    inside = binary_erosion(tissue, np.ones((1, 3, 3), bool))
    return float(np.median(shown[inside])) if inside.sum() >= _LEAST_VOXELS else None
