"""What is measured of one lesion edit, against the simulator's truth and by the independent segmenter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, label
from torch import nn

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.lesion_scans import cut, working_stack
from cfmri_core.errors import RequestError
from cfmri_core.models.direct_editor import with_neighbours
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.pipeline.lesion_detection import lesion_probability
from cfmri_core.pipeline.lesion_region import BoolArray, dilated
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume

#: A lesion is found where this many voxels that touch each other are more probably lesion than not.
LEAST_VOXELS = 3
#: How far around the asked lesion a finding counts as its own, in mm; the same for every method.
NEIGHBOURHOOD_MM = 7.5
#: Width of the shell around the lesion that its contrast is measured against, in mm.
_SHELL_MM = 6.0
#: Patch whose features are compared, in pixels and their side in mm.
_PATCH_PIXELS, _PATCH_PIXEL_MM = 32, 2.34375
#: Slices of a lesion whose features are compared: its largest.
_FEATURE_SLICES = 3


@dataclass(frozen=True)
class LesionTruth:
    """One simulated patient.

    Attributes:
        with_lesion: The scan with the lesion.
        without: The scan of the same anatomy without it, with other noise.
        clean_without: The same without noise.
        mask: The lesion, bool, shape of the scan.
        breast: The breast by the true labels, bool, same shape.
        parameters: How both were scanned.
    """

    with_lesion: Volume
    without: Volume
    clean_without: Volume
    mask: BoolArray
    breast: BoolArray
    parameters: AcquisitionParameters

    @property
    def neighbourhood(self) -> BoolArray:
        """Where the lesion and its effects lie, the same for every method."""
        return dilated(self.mask, self.without.spacing_mm, NEIGHBOURHOOD_MM) & self.breast


def insertion_metrics(
    result: Volume, region: BoolArray, truth: LesionTruth, segmenter: LesionSegmenter
) -> dict[str, float]:
    """Measure an insertion into the scan without lesion.

    Returns:
        dice: Of what the segmenter finds near the asked lesion with that lesion.
        found: 1 if it finds a lesion there at all.
        outside_max: Largest difference outside the method's own region, in stored units.
        collateral: Mean difference outside the lesion's neighbourhood in the breast, in percent of the range.
        boundary_gradient_ratio: Gradient about the region's border, of that of the true scan with the lesion.
        volume_ratio: Found volume per asked volume.
        contrast: Of the lesion to its surroundings, in percent of the range.
    """
    near = truth.neighbourhood
    found = (lesion_probability(result, segmenter) > 0.5) & near
    change, span = np.abs(result.voxels - truth.without.voxels), _span(truth.without)
    return {
        "dice": dice(found, truth.mask),
        "found": float(is_found(found)),
        "outside_max": float(change[~region].max()),
        "collateral": 100 * float(change[truth.breast & ~near].mean()) / span,
        "boundary_gradient_ratio": boundary_gradient(result, region) / boundary_gradient(truth.with_lesion, region),
        "volume_ratio": float(found.sum() / truth.mask.sum()),
        "contrast": 100 * _contrast(result, truth) / span,
    }


def removal_metrics(
    result: Volume, region: BoolArray, truth: LesionTruth, segmenter: LesionSegmenter
) -> dict[str, float]:
    """Measure a removal from the scan with the lesion.

    Returns:
        nothing_found: 1 if the segmenter finds no lesion near the place.
        residual_probability: Its largest probability where the lesion was.
        psnr_db: To the truth without lesion and noise, in the lesion's neighbourhood.
        outside_max, boundary_gradient_ratio: As `insertion_metrics`; the true scan is the one without lesion.
    """
    near = truth.neighbourhood
    probability = lesion_probability(result, segmenter)
    change = np.abs(result.voxels - truth.with_lesion.voxels)
    error = float(np.mean((result.voxels[near] - truth.clean_without.voxels[near]) ** 2))
    return {
        "nothing_found": float(not is_found((probability > 0.5) & near)),
        "residual_probability": float(probability[truth.mask].max()),
        "psnr_db": 10 * float(np.log10(_span(truth.without) ** 2 / max(error, 1e-9))),
        "outside_max": float(change[~region].max()) if region.any() else 0.0,
        "boundary_gradient_ratio": boundary_gradient(result, region) / boundary_gradient(truth.without, region),
    }


def dice(found: BoolArray, wanted: BoolArray) -> float:
    """Dice coefficient of two masks."""
    return float(2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum()))


def is_found(found: BoolArray) -> bool:
    """Whether a mask holds a connected part of at least `LEAST_VOXELS` voxels."""
    parts, count = label(found)
    return bool(count) and bool(np.bincount(parts.ravel())[1:].max() >= LEAST_VOXELS)


def boundary_gradient(volume: Volume, region: BoolArray) -> float:
    """Mean in-plane gradient in the voxels on either side of a region's border, in units per mm; NaN without one."""
    across = np.ones((3, 3, 1), bool)
    border = binary_dilation(region, across) & ~binary_erosion(region, across)
    if not border.any():
        return float("nan")
    rows, columns = np.gradient(volume.voxels, *volume.spacing_mm[:2], axis=(0, 1))
    return float(np.hypot(rows, columns)[border].mean())


def lesion_features(volume: Volume, mask: BoolArray, encoder: IapPredictor) -> NDArray[np.float64]:
    """Return features of patches about a lesion, one row per slice of its largest.

    The features are those of the encoder's second stage, averaged over the patch. Its batch normalisation has fixed
    statistics, so that brightness counts; it knows neither the editors nor the lesion segmenter nor any lesion.

    Args:
        volume: The scan, with its lesion or an inserted one.
        mask: The lesion that is there or was asked for: it places the patches.
        encoder: The residual predictor that scores edits of acquisition.

    Raises:
        RequestError: The encoder is of another architecture.
    """
    stages = _stages(encoder)
    stack, scale = working_stack(volume, _PATCH_PIXEL_MM), IntensityScale.of(volume.voxels)
    images = stack.images(scale.normalise(np.asarray(stack.native(volume.voxels))))
    inside = stack.label_images(np.asarray(stack.native(mask.astype(np.uint8)))) > 0
    areas = inside.flatten(1).sum(dim=1)
    chosen = torch.sort(torch.topk(areas, min(_FEATURE_SLICES, int((areas > 0).sum()))).indices).values
    rows, columns = (inside.any(dim=0).any(dim=across).nonzero().flatten() for across in (1, 0))
    centre = int(rows[0] + rows[-1] + 1) // 2, int(columns[0] + columns[-1] + 1) // 2
    x = encoder.config.normalisation.to_network(cut(with_neighbours(images)[chosen], centre, _PATCH_PIXELS))
    with torch.inference_mode():
        x = x.to(encoder.device)
        for stage in stages:
            x = stage(x)
    return x.mean(dim=(2, 3)).cpu().numpy().astype(np.float64)


def _stages(encoder: IapPredictor) -> list[nn.Module]:
    if encoder.config.architecture != "detail-resnet":
        raise RequestError("Features are taken from the scoring predictor.", "Load it with `scoring_predictor`.")
    detail, residual = encoder.network.children()
    parts = [getattr(residual, name) for name in ("conv1", "bn1", "act", "layer1", "layer2")]
    return [detail, *parts]


def harmonic_fill(volume: Volume, region: BoolArray) -> NDArray[np.float32]:
    """Fill a region slice by slice with the smoothest continuation of its border: the classical inpainting.

    Solves Laplace's equation with the border's values (a membrane over the hole) by relaxation.

    Source: Bertalmio et al. 2000 name it as the simplest case of inpainting by a partial differential equation.
    """
    filled = volume.voxels.astype(np.float64).copy()
    filled[region] = filled[binary_dilation(region, np.ones((3, 3, 1), bool)) & ~region].mean()
    for _ in range(400):
        shifted = np.stack([np.roll(filled, step, axis)[region] for axis in (0, 1) for step in (-1, 1)])
        filled[region] = shifted.mean(axis=0)
    return filled.astype(np.float32)


def _contrast(volume: Volume, truth: LesionTruth) -> float:
    shell = dilated(truth.mask, volume.spacing_mm, _SHELL_MM) & truth.breast & ~truth.mask
    return float(volume.voxels[truth.mask].mean() - volume.voxels[shell].mean())


def _span(volume: Volume) -> float:
    scale = IntensityScale.of(volume.voxels)
    return scale.high - scale.low
