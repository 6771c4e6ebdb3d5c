"""Find the studies below a folder, and turn them into arrays that training can draw from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.bids import survey_bids
from cfmri_core.data.catalogue import Catalogue, Study
from cfmri_core.data.duke import survey_duke
from cfmri_core.data.masks import on_grid, read_tissue_masks
from cfmri_core.data.splits import stratified_split
from cfmri_core.errors import CfmriError, GeometryError, RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

__all__ = ["SliceSet", "Study", "is_study", "list_studies", "load_slices", "read_labels", "survey"]

#: How a BIDS file name tells whose scan it is; without it each file of a flat folder counts as another patient.
_BIDS_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)_")


@dataclass(frozen=True)
class SliceSet:
    """Slices of many subjects in memory.

    Attributes:
        images: Normalised intensity, float32, shape ``(slices, 1, size, size)``.
        subject: Index of the subject of each slice, shape ``(slices,)``.
        parameters: Acquisition parameters per subject.
        labels: Tissue labels, int64, shape ``(slices, size, size)``, or ``None``.
        patients: Patient of each subject; empty where each subject is another patient.
    """

    images: Tensor
    subject: Tensor
    parameters: tuple[AcquisitionParameters, ...]
    labels: Tensor | None = None
    patients: tuple[str, ...] = ()

    def of_subjects(self, subjects: Sequence[int]) -> SliceSet:
        """Only the slices of these subjects, renumbered from 0."""
        order = torch.full((len(self.parameters),), -1)
        order[list(subjects)] = torch.arange(len(subjects))
        subject = order[self.subject]
        keep = subject >= 0
        labels = None if self.labels is None else self.labels[keep]
        parameters = tuple(self.parameters[i] for i in subjects)
        patients = tuple(self.patients[i] for i in subjects) if self.patients else ()
        return SliceSet(self.images[keep], subject[keep], parameters, labels, patients)

    def split(self, validation_share: float, seed: int) -> tuple[SliceSet, SliceSet]:
        """Split into training and validation: no patient in both, the same mix of acquisitions (`stratified_split`).

        Each part gets a patient when there are two; a single one goes to training.
        """
        patients = self.patients or [f"{subject:06d}" for subject in range(len(self.parameters))]
        shares = (1 - validation_share, validation_share)
        training, validation = stratified_split(patients, self.parameters, shares, seed)
        return self.of_subjects(training), self.of_subjects(validation)


def list_studies(root: Path) -> list[Study]:
    """List the studies below a folder, sorted by subject: those of `survey`.

    Raises:
        RequestError: The folder does not exist or holds no usable study.
    """
    return list(survey(root).studies)


def survey(root: Path) -> Catalogue:
    """List the studies below a folder, and say which are left out and why; no pixel is read.

    Known layouts: what ``cfmri simulate`` writes (``sub-*/dicom`` with ``labels.nii.gz`` and ``lesion.nii.gz``); a
    flat folder of ``*.nii.gz`` with BIDS sidecars, labels under ``labels/final`` as MONAI Label keeps them, lesion
    masks under ``labels/lesion``; a BIDS dataset (see `bids`); where there is none of these, Duke-Breast-Cancer-MRI as
    TCIA hands it out (see `duke`).

    Raises:
        RequestError: The folder does not exist or holds no usable study, or a table in it is not readable.
    """
    if not root.is_dir():
        raise RequestError(
            f"{root} is not a folder.", "Give a folder of studies, e.g. one that `cfmri simulate` wrote."
        )
    # A hidden folder is one that is being written.
    folders = [folder for folder in sorted(root.glob("*/dicom")) if folder.is_dir() and folder.parent.name[0] != "."]
    studies = [_dicom_study(folder.parent) for folder in folders]
    studies += [_nifti_study(path) for path in sorted(root.glob("*.nii.gz"))]
    found = survey_bids(root)
    found = Catalogue((*studies, *found.studies), found.remarks)
    found = found if found.studies or found.remarks else survey_duke(root)
    if found.studies:
        return found
    if found.remarks:
        raise RequestError(f"{root} holds no usable study: {found.lines()[-1]}")
    raise RequestError(
        f"{root} holds no study.",
        "Expected sub-*/dicom folders, *.nii.gz files with a JSON sidecar beside each, BIDS, or Breast_MRI_* folders.",
    )


def load_slices(
    studies: Sequence[Study],
    image_size: int,
    *,
    keeps_aspect: bool = True,
    with_labels: bool = False,
    progress: Progress = silent,
) -> SliceSet:
    """Read studies into one `SliceSet`.

    Every slice counts, to the ends of the field of view. (Morão et al. drop the first and last 20 of each scan,
    which would leave nothing of a slab.) Only in a scan most of whose slices hold one value throughout, as
    zero-filling leaves them, are those slices dropped, and the progress message says so. The parameters are
    the study's own where it knows them (see `Study.acquisition`), else those of the scan's header.

    Args:
        studies: What to read.
        image_size: Side of the network's images.
        keeps_aspect: Whether slices are padded to the square; an imported network may want them stretched over it.
        with_labels: Read tissue labels too; studies without are refused.
        progress: Called after each study.

    Raises:
        CfmriError: A study cannot be read; the message names its path.
    """
    images, subjects, parameters, labels = [], [], [], []
    for number, study in enumerate(studies):
        scan = read_scan(study.scan_path)
        try:
            stack_images, stack, _ = normalised_images(scan.volume, image_size, keeps_aspect)
        except GeometryError as error:
            raise GeometryError(f"{study.scan_path}: {error.message}", error.hint) from error
        kept = _kept_slices(np.asarray(stack.native(scan.volume.voxels)))
        images.append(stack_images[kept])
        subjects.append(torch.full((len(kept),), number))
        known = study.acquisition or AcquisitionParameters()
        parameters.append(scan.acquisition.parameters.replaced(known.known()))
        if with_labels:
            mask = read_labels(study, scan.volume)
            labels.append(stack.label_images(np.asarray(stack.native(mask.voxels)))[kept])
        dropped = len(stack_images) - len(kept)
        said = f" ({dropped} empty slices dropped)" if dropped else ""
        progress(number + 1, len(studies), study.subject_id + said)
    return SliceSet(
        torch.cat(images),
        torch.cat(subjects),
        tuple(parameters),
        torch.cat(labels) if with_labels else None,
        tuple(study.patient for study in studies),
    )


def read_labels(study: Study, volume: Volume) -> Volume:
    """Read a study's tissue labels, put on the scan's grid (axes permuted and turned, never interpolated).

    Returns:
        0 background, 1 fat, 2 fibroglandular tissue, uint8.

    Raises:
        RequestError: There are none, they hold other values, or they are not of the scan's voxels.
    """
    if study.labels_path is None:
        raise RequestError(f"{study.scan_path} has no tissue labels.", "Put labels.nii.gz beside the series.")
    if study.labels_path.is_dir():
        return read_tissue_masks(study.labels_path, volume)
    labels = read_nifti(study.labels_path)
    if not labels.has_same_grid(volume, tolerance_mm=0.1):
        if labels.voxels.size != volume.voxels.size:  # labels of a part say nothing of the rest
            raise RequestError(
                f"{study.labels_path} lies on another grid than its scan: {labels.shape} voxels, not {volume.shape}.",
                "Resample the labels first.",
            )
        labels = on_grid(labels, volume, study.labels_path)
    values = labels.voxels.round().astype(np.int64)
    if values.min() < 0 or values.max() > 2:
        raise RequestError(
            f"{study.labels_path} holds labels {values.min()} to {values.max()}.",
            "Accepted: 0 background, 1 fat, 2 fibroglandular tissue.",
        )
    return volume.with_voxels(values.astype(np.uint8))


def is_study(path: Path) -> bool:
    """Whether `list_studies` finds anything in a folder."""
    try:
        return bool(list_studies(path))
    except CfmriError:
        return False


def _kept_slices(slices: NDArray[np.float32]) -> list[int]:
    """All slices, or those that hold more than one value where most do not; shape ``(slices, rows, columns)``."""
    shown = np.flatnonzero(np.ptp(slices, axis=(1, 2)) > 0).tolist()
    return shown if 2 * len(shown) < len(slices) else list(range(len(slices)))


def _dicom_study(folder: Path) -> Study:
    labels = folder / "labels.nii.gz"
    renderings = {path.name: path for path in sorted((folder / "paired").glob("*")) if path.is_dir()}
    changed = {name: path for name, path in renderings.items() if (path / "labels.nii.gz").is_file()}
    paired = {name: path for name, path in renderings.items() if name not in changed}
    lesion = folder / "lesion.nii.gz"
    return Study(
        folder.name, folder / "dicom", labels if labels.exists() else None, paired, changed,
        lesion_path=lesion if lesion.exists() else None,
    )  # fmt: skip


def _nifti_study(path: Path) -> Study:
    labels = path.parent / "labels" / "final" / path.name
    name = path.name.removesuffix(".nii.gz")
    named = _BIDS_SUBJECT.match(name)
    lesion = path.parent / "labels" / "lesion" / path.name
    return Study(
        name, path, labels if labels.exists() else None, patient_id=named.group(1) if named else "",
        lesion_path=lesion if lesion.exists() else None,
    )  # fmt: skip
