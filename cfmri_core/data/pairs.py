"""The same anatomy under several acquisitions, as arrays that training can draw pairs from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.studies import Study
from cfmri_core.errors import GeometryError, RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale, SliceStack
from cfmri_core.volume import Volume


@dataclass(frozen=True)
class Renderings:
    """One subject under several acquisitions.

    Attributes:
        noisy: As scanned, each rendering normalised by its own scale, float16, shape
            ``(renderings, slices, size, size)``.
        clean: The same without noise, each normalised by its own scale, float16, same shape.
        gain: Factor from the scale of ``clean`` to that of ``noisy``, shape ``(renderings,)``.
        offset: Offset that goes with it, same shape.
        parameters: Acquisition parameters per rendering.
    """

    noisy: Tensor
    clean: Tensor
    gain: Tensor
    offset: Tensor
    parameters: tuple[AcquisitionParameters, ...]


def load_renderings(studies: Sequence[Study], image_size: int, progress: Progress = silent) -> list[Renderings]:
    """Read the paired renderings of simulated studies.

    Args:
        studies: Studies simulated with ``--paired``; those with fewer than two renderings are refused.
        image_size: Side of the network's images.
        progress: Called after each study.

    Raises:
        RequestError: A study has fewer than two renderings, or one of them is damaged.
    """
    loaded = []
    for number, study in enumerate(studies, start=1):
        if len(study.paired) < 2:
            raise RequestError(
                f"{study.subject_id} has {len(study.paired)} paired renderings.",
                "Simulate the subjects with --paired FILE.json and at least 2 targets.",
            )
        loaded.append(_stacked([_rendering(folder, image_size) for folder in study.paired.values()]))
        progress(number, len(studies), study.subject_id)
    return loaded


def paired_parameters(folder: Path) -> AcquisitionParameters:
    """Read the parameters of a paired rendering.

    Raises:
        RequestError: Its study.json is absent or damaged.
    """
    path = folder / "study.json"
    try:
        return AcquisitionParameters(**json.loads(path.read_text(encoding="utf-8"))["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} does not describe a paired rendering.", "Simulate the study again.") from error


def paired_truth(folder: Path, grid: Volume) -> Volume:
    """Read the noise-free truth of a paired rendering.

    Raises:
        GeometryError: It does not lie on the source's grid.
    """
    truth = read_nifti(folder / "truth.nii.gz")
    if not truth.has_same_grid(grid, tolerance_mm=0.1):
        raise GeometryError(f"{folder / 'truth.nii.gz'} lies on another grid than its source.", "Simulate it again.")
    return truth


_Rendering = tuple[Tensor, Tensor, float, float, AcquisitionParameters]


def _rendering(folder: Path, image_size: int) -> _Rendering:
    noisy = read_scan(folder / "dicom").volume
    clean = paired_truth(folder, noisy)
    of_noisy, of_clean = IntensityScale.of(noisy.voxels), IntensityScale.of(clean.voxels)
    span = of_noisy.high - of_noisy.low
    return (
        _images(noisy, of_noisy, image_size),
        _images(clean, of_clean, image_size),
        (of_clean.high - of_clean.low) / span,
        (of_clean.low - of_noisy.low) / span,
        paired_parameters(folder),
    )


def _images(volume: Volume, scale: IntensityScale, image_size: int) -> Tensor:
    stack = SliceStack.of(volume, image_size)
    return stack.images(scale.normalise(np.asarray(stack.native(volume.voxels))))[:, 0].half()


def _stacked(renderings: Sequence[_Rendering]) -> Renderings:
    noisy, clean, gain, offset, parameters = zip(*renderings, strict=True)
    return Renderings(torch.stack(noisy), torch.stack(clean), torch.tensor(gain), torch.tensor(offset), parameters)
