"""Find the studies below a folder, and turn them into arrays that training can draw from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CfmriError, RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume


@dataclass(frozen=True)
class Study:
    """One subject's scan on disk.

    Attributes:
        subject_id: Folder or file name; subjects are never split between training and validation.
        scan_path: DICOM folder or NIfTI file, as `read_scan` takes it.
        labels_path: Tissue labels (0 background, 1 fat, 2 fibroglandular) on the scan's grid, if there are any.
        paired: Folders with the same anatomy under other parameters (simulated studies only).
    """

    subject_id: str
    scan_path: Path
    labels_path: Path | None = None
    paired: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SliceSet:
    """Slices of many subjects in memory.

    Attributes:
        images: Normalised intensity, float32, shape ``(slices, 1, size, size)``.
        subject: Index of the subject of each slice, shape ``(slices,)``.
        parameters: Acquisition parameters per subject.
        labels: Tissue labels, int64, shape ``(slices, size, size)``, or ``None``.
    """

    images: Tensor
    subject: Tensor
    parameters: tuple[AcquisitionParameters, ...]
    labels: Tensor | None = None

    def of_subjects(self, subjects: Sequence[int]) -> SliceSet:
        """Only the slices of these subjects, renumbered from 0."""
        order = torch.full((len(self.parameters),), -1)
        order[list(subjects)] = torch.arange(len(subjects))
        subject = order[self.subject]
        keep = subject >= 0
        labels = None if self.labels is None else self.labels[keep]
        return SliceSet(self.images[keep], subject[keep], tuple(self.parameters[i] for i in subjects), labels)


def list_studies(root: Path) -> list[Study]:
    """List the studies below a folder, sorted by subject.

    Known layouts: what ``cfmri simulate`` writes (``sub-*/dicom`` with ``labels.nii.gz``), and a flat
    folder of ``*.nii.gz`` with BIDS sidecars, labels under ``labels/final`` as MONAI Label keeps them.

    Raises:
        RequestError: The folder does not exist or holds no study.
    """
    if not root.is_dir():
        raise RequestError(
            f"{root} is not a folder.", "Give a folder of studies, e.g. one that `cfmri simulate` wrote."
        )
    studies = [_dicom_study(folder.parent) for folder in sorted(root.glob("*/dicom")) if folder.is_dir()]
    studies += [_nifti_study(path) for path in sorted(root.glob("*.nii.gz"))]
    if not studies:
        raise RequestError(
            f"{root} holds no study.", "Expected sub-*/dicom folders or *.nii.gz files with a JSON sidecar beside each."
        )
    return studies


def load_slices(
    studies: Sequence[Study], image_size: int, *, with_labels: bool = False, progress: Progress = silent
) -> SliceSet:
    """Read studies into one `SliceSet`.

    Args:
        studies: What to read.
        image_size: Side of the network's images.
        with_labels: Read tissue labels too; studies without are refused.
        progress: Called after each study.

    Raises:
        CfmriError: A study cannot be read; the message names its path.
    """
    images, subjects, parameters, labels = [], [], [], []
    for number, study in enumerate(studies):
        scan = read_scan(study.scan_path)
        stack_images, stack, _ = normalised_images(scan.volume, image_size)
        images.append(stack_images)
        subjects.append(torch.full((len(stack_images),), number))
        parameters.append(scan.acquisition.parameters)
        if with_labels:
            mask = read_labels(study, scan.volume)
            labels.append(stack.label_images(np.asarray(stack.native(mask.voxels))))
        progress(number + 1, len(studies), study.subject_id)
    return SliceSet(
        torch.cat(images), torch.cat(subjects), tuple(parameters), torch.cat(labels) if with_labels else None
    )


def read_labels(study: Study, volume: Volume) -> Volume:
    """Read a study's tissue labels and check that they lie on the scan's grid.

    Raises:
        RequestError: There are none, they hold other values, or their grid differs.
    """
    if study.labels_path is None:
        raise RequestError(f"{study.scan_path} has no tissue labels.", "Put labels.nii.gz beside the series.")
    labels = read_nifti(study.labels_path)
    if not labels.has_same_grid(volume, tolerance_mm=0.1):
        raise RequestError(f"{study.labels_path} lies on another grid than its scan.", "Resample the labels first.")
    values = labels.voxels.round().astype(np.int64)
    if values.min() < 0 or values.max() > 2:
        raise RequestError(
            f"{study.labels_path} holds labels {values.min()} to {values.max()}.",
            "Accepted: 0 background, 1 fat, 2 fibroglandular tissue.",
        )
    return labels.with_voxels(values.astype(np.uint8))


def split_subjects(count: int, validation_share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split subject indices into training and validation; at least one subject lands in each when there are two."""
    order = np.random.default_rng((seed, 6)).permutation(count).tolist()
    held_back = min(max(1, round(count * validation_share)), count - 1) if count > 1 else 0
    return sorted(order[held_back:]), sorted(order[:held_back])


def is_study(path: Path) -> bool:
    """Whether `list_studies` finds anything in a folder."""
    try:
        return bool(list_studies(path))
    except CfmriError:
        return False


def _dicom_study(folder: Path) -> Study:
    labels = folder / "labels.nii.gz"
    paired = {path.name: path for path in sorted((folder / "paired").glob("*")) if path.is_dir()}
    return Study(folder.name, folder / "dicom", labels if labels.exists() else None, paired)


def _nifti_study(path: Path) -> Study:
    labels = path.parent / "labels" / "final" / path.name
    return Study(path.name.removesuffix(".nii.gz"), path, labels if labels.exists() else None)
