"""Breast masks as annotators publish them, turned into tissue labels on a scan's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name
from numpy.typing import NDArray

from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import MAX_VOXELS
from cfmri_core.volume import Volume

BREAST_ENDING, DENSE_ENDING = "_Breast.seg.nrrd", "_Dense_and_Vessels.seg.nrrd"
#: Two grids are one lattice if no corner of the mask is further from a voxel centre, in voxels.
LATTICE_TOLERANCE = 0.2
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def mask_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the breast mask and the dense-tissue mask of a patient's folder, or ``None`` unless it holds one of each.

    Layout: the supplement of Duke-Breast-Cancer-MRI, ``Segmentation_Masks_NRRD/Breast_MRI_002/``.
    """
    found = [sorted(folder.glob(f"*{ending}")) for ending in (BREAST_ENDING, DENSE_ENDING)]
    return (found[0][0], found[1][0]) if [len(files) for files in found] == [1, 1] else None


def read_tissue_masks(folder: Path, scan: Volume) -> Volume:
    """Combine a breast mask and a mask of dense tissue and vessels into tissue labels.

    Fat is what lies in the breast mask and is not dense tissue; vessels count as fat, as in Morão et al.
    Dense tissue outside the breast mask is background. The file itself says which label is dense tissue:
    the order of segments differs between patients, and overlapping ones lie in layers.

    Args:
        folder: Holds one file of each kind (see `mask_files`).
        scan: The scan they were drawn on.

    Returns:
        0 background, 1 fat, 2 fibroglandular tissue, uint8, on the scan's grid.

    Raises:
        RequestError: A file is absent, unreadable, on another grid, or does not name its dense tissue.
    """
    files = mask_files(folder)
    if files is None:
        raise RequestError(
            f"{folder} does not hold exactly one *{BREAST_ENDING} and one *{DENSE_ENDING}.", "Download both masks."
        )
    breast, dense = (on_grid(_segment(path, word), scan, path) for path, word in zip(files, ("", "dense"), strict=True))
    inside = breast.voxels > 0
    return scan.with_voxels(np.where(inside, 1 + (dense.voxels > 0), 0).astype(np.uint8))


def on_grid(mask: Volume, scan: Volume, path: Path | str) -> Volume:
    """Put a mask on a scan's grid without interpolation: axes are permuted and turned, cropped margins become 0.

    Args:
        mask: Labels, 0 outside.
        scan: Where to put them.
        path: What the error calls it.

    Raises:
        RequestError: The mask's voxels are not the scan's, or some that are not 0 lie outside it.
    """
    relative = np.linalg.inv(scan.affine) @ mask.affine
    axes = np.abs(relative[:3, :3]).argmax(axis=0)
    signs = np.sign(relative[axes, range(3)]).astype(int)
    extent = np.array(mask.shape) - 1
    ideal = np.zeros((3, 3))
    ideal[axes, range(3)] = signs
    origin = np.rint(relative[:3, 3])
    drift = np.abs(relative[:3, 3] - origin) + np.abs(relative[:3, :3] - ideal) @ extent
    if len(set(axes.tolist())) < 3 or drift.max() > LATTICE_TOLERANCE:
        raise _another_grid(mask, scan, path)
    voxels = mask.voxels[tuple(slice(None, None, int(sign)) for sign in signs)].transpose(np.argsort(axes))
    first = np.minimum(origin, origin + ideal @ extent).astype(int)
    placed = np.zeros(scan.shape, dtype=mask.voxels.dtype)
    low, high = np.maximum(first, 0), np.minimum(first + voxels.shape, scan.shape)
    if (low < high).all():
        source = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
        placed[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = voxels[source]
    if np.count_nonzero(placed) != np.count_nonzero(voxels):
        raise _another_grid(mask, scan, path)
    return scan.with_voxels(placed)


def _segment(path: Path, word: str) -> Volume:
    """Read the segment whose name contains a word, or all segments for no word, as 0 and 1."""
    image = _image(path)
    if image.GetDimension() != 3:
        raise RequestError(f"{path}: has {image.GetDimension()} axes; a mask has 3.", "Save it from 3D Slicer again.")
    values = sitk.GetArrayFromImage(image)
    layers = values.reshape(*values.shape[:3], -1)  # (k, j, i, layers)
    chosen = _named(path, image, word, layers) if word else (layers > 0).any(axis=3)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(np.ascontiguousarray(chosen.T.astype(np.uint8)), _LPS_TO_RAS @ affine)


def _image(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        values = np.prod(reader.GetSize(), dtype=float) * reader.GetNumberOfComponents()
        if values > MAX_VOXELS:  # before they are read
            raise RequestError(f"{path}: claims {values:.3g} voxels; up to {MAX_VOXELS} are accepted.")
        return reader.Execute()
    except RuntimeError:
        raise RequestError(f"{path}: not a readable NRRD file.", "Download the mask again.") from None


def _named(path: Path, image: sitk.Image, word: str, layers: NDArray[np.generic]) -> NDArray[np.bool_]:
    keys = set(image.GetMetaDataKeys())
    names = {key: image.GetMetaData(key) for key in keys if key.startswith("Segment") and key.endswith("_Name")}
    matches = [key.removesuffix("_Name") for key, name in names.items() if word in name.lower()]
    if len(matches) != 1:
        raise RequestError(
            f"{path}: {len(matches)} segments are named '{word}'; one is needed to know which label is which.",
            "Name the segments 'Dense' and 'Vessels' in 3D Slicer.",
        )
    entries = [f"{matches[0]}_{part}" for part in ("LabelValue", "Layer")]
    label, layer = (int(image.GetMetaData(e)) if e in keys else d for e, d in zip(entries, (1, 0), strict=True))
    return np.asarray(layers[..., layer] == label)


def _another_grid(mask: Volume, scan: Volume, path: Path | str) -> RequestError:
    return RequestError(
        f"{path} lies on another grid than its scan: {_grid(mask)} against {_grid(scan)}.",
        "It was drawn on another series, or its geometry was lost. Replace it or move it away.",
    )


def _grid(volume: Volume) -> str:
    shape = "x".join(str(size) for size in volume.shape)
    return f"{shape} voxels of {' x '.join(f'{length:.3g}' for length in volume.spacing_mm)} mm"
