"""The same anatomy under several acquisitions, as arrays that training can draw pairs from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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

#: Paired renderings whose names begin so are shown to a network as truth, never as a source: protocols that nobody
#: scans with (no fat suppression, extreme flip angles and echo times), which tell water from fat and T1 from density.
PROBE = "probe"


@dataclass(frozen=True)
class Renderings:
    """One subject under several acquisitions.

    Attributes:
        noisy: As scanned, each rendering normalised by its own scale, float16, shape
            ``(renderings, slices, size, size)``.
        clean: The same without noise, on the same scales, float16, same shape.
        low: What 0 of each rendering's scale is in scanner units, shape ``(renderings,)``.
        span: Scanner units from 0 to 1 of each rendering's scale, same shape.
        clean_span: The same of the scale that each rendering would have without noise, same shape.
        noise: Standard deviation of the noise in tissue, in scanner units, same shape.
        parameters: Acquisition parameters per rendering.
        sources: Numbers of the renderings that stand for scans; the others are probes.
    """

    noisy: Tensor
    clean: Tensor
    low: Tensor
    span: Tensor
    clean_span: Tensor
    noise: Tensor
    parameters: tuple[AcquisitionParameters, ...]
    sources: tuple[int, ...]

    @property
    def scanned_as(self) -> list[AcquisitionParameters]:
        """Parameters of the sources."""
        return [self.parameters[number] for number in self.sources]

    def clean_in_units_of(self, source: int, renderings: Sequence[int], slices: int | slice) -> Tensor:
        """Return slices of some renderings without noise, in the normalised intensity of another rendering.

        Args:
            source: The rendering whose scale is used.
            renderings: Which to return.
            slices: Number of the slice, or which.

        Returns:
            float32, shape ``(renderings, size, size)``, or ``(renderings, slices, size, size)``.
        """
        clean = self.clean[renderings, slices].float()
        place = (-1,) + (1,) * (clean.ndim - 1)
        gain = (self.span[renderings] / self.span[source]).view(place)
        offset = ((self.low[renderings] - self.low[source]) / self.span[source]).view(place)
        return clean * gain + offset


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
        loaded.append(_stacked({name: _rendering(folder, image_size) for name, folder in study.paired.items()}))
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


_Rendering = tuple[Tensor, Tensor, float, float, float, float, AcquisitionParameters]


def _rendering(folder: Path, image_size: int) -> _Rendering:
    noisy = read_scan(folder / "dicom").volume
    clean = paired_truth(folder, noisy)
    scale, of_clean = IntensityScale.of(noisy.voxels), IntensityScale.of(clean.voxels)
    return (
        _images(noisy, scale, image_size),
        _images(clean, scale, image_size),
        scale.low,
        scale.high - scale.low,
        of_clean.high - of_clean.low,
        float((noisy.voxels - clean.voxels)[clean.voxels > of_clean.low + 0.3 * (of_clean.high - of_clean.low)].std()),
        paired_parameters(folder),
    )


def _images(volume: Volume, scale: IntensityScale, image_size: int) -> Tensor:
    stack = SliceStack.of(volume, image_size)
    return stack.images(scale.normalise(np.asarray(stack.native(volume.voxels))))[:, 0].half()


def _stacked(renderings: Mapping[str, _Rendering]) -> Renderings:
    noisy, clean, low, span, clean_span, noise, parameters = zip(*renderings.values(), strict=True)
    sources = tuple(number for number, name in enumerate(renderings) if not name.startswith(PROBE))
    return Renderings(
        torch.stack(noisy),
        torch.stack(clean),
        torch.tensor(low),
        torch.tensor(span),
        torch.tensor(clean_span),
        torch.tensor(noise),
        parameters,
        sources,
    )
