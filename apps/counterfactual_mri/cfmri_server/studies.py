"""Turn a folder of studies into what MONAI Label serves: a flat folder of NIfTI with sidecars and labels."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.data.masks import read_tissue_masks
from cfmri_core.data.studies import is_study, list_studies
from cfmri_core.dicom.read import find_series, read_series
from cfmri_core.errors import CfmriError, RequestError
from cfmri_core.io.atomic import atomic_file
from cfmri_core.io.nifti import read_nifti, sidecar_of, write_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume
from cfmri_server.identifiers import IMAGE_EXTENSIONS, KEPT_EXTENSION, is_image_id
from cfmri_server.state import FOLDER_NAME, StateFolder

logger = logging.getLogger("cfmri.studies")

#: Folder in a converted datastore with a mark for each image that was deleted there.
_DELETED = ".deleted"


@dataclass(frozen=True)
class Source:
    """One series to serve.

    Attributes:
        image_id: Name in the datastore.
        scan_path: A folder with one DICOM series, or a NIfTI file.
        labels_path: Tissue labels of the scan, if there are any: a file on the same grid, or a folder of masks.
        known: Acquisition parameters that outrank the scan's header, such as those of a table.
    """

    image_id: str
    scan_path: Path
    labels_path: Path | None
    known: AcquisitionParameters


def prepare_datastore(studies: Path, progress: Progress = silent) -> Path:
    """Return the folder to serve, after converting what is not yet converted.

    A folder with NIfTI or NRRD files at its top is served as it is. Any other is searched for
    studies as `cfmri simulate` writes them, or else for DICOM series, and each is written once
    into ``STUDIES/.monailabel/datastore``. Labels there are never overwritten: people correct them. What was deleted
    there (`note_deleted`) is not converted again.

    Raises:
        RequestError: The folder does not exist or holds no image.
    """
    if not studies.is_dir():
        raise RequestError(f"{studies} is not a folder.", "Give the folder that holds the studies.")
    if any(path.is_file() and path.name.endswith(IMAGE_EXTENSIONS) for path in studies.iterdir()):
        return studies
    sources = list(_sources(studies))
    if not sources:
        raise RequestError(
            f"{studies} holds no NIfTI file and no DICOM series.",
            "Make studies with: cfmri simulate STUDIES --subjects 4",
        )
    datastore = StateFolder.of(studies).datastore
    (datastore / _DELETED).mkdir(parents=True, exist_ok=True)
    for index, source in enumerate(sources):
        progress(index, len(sources), "Preparing studies")
        _convert(source, datastore)
    progress(len(sources), len(sources), "Studies ready")
    return datastore


def note_deleted(datastore: Path, image_id: str) -> None:
    """Have an image stay deleted whose study is still there; a datastore that was not converted needs no note."""
    if (datastore / _DELETED).is_dir():
        _deletion_mark(datastore, image_id).touch()


def _deletion_mark(datastore: Path, image_id: str) -> Path:
    return datastore / _DELETED / hashlib.sha256(image_id.encode()).hexdigest()  # what is deleted leaves no name


def _sources(studies: Path) -> Iterator[Source]:
    if is_study(studies):
        for study in list_studies(studies):
            known = study.acquisition or AcquisitionParameters()
            yield Source(safe_image_id(study.subject_id), study.scan_path, study.labels_path, known)
        return
    for series in find_series(studies):
        relative = series.relative_to(studies)
        if FOLDER_NAME not in relative.parts:
            yield Source(safe_image_id("_".join(relative.parts) or series.name), series, None, AcquisitionParameters())


def safe_image_id(name: str) -> str:
    """Return an image id made from a name; names that must be changed get a short digest, to stay apart."""
    if is_image_id(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100].strip(".-") + "-" + digest


def _convert(source: Source, datastore: Path) -> None:
    """Write one study's image, sidecar and labels; a study that cannot be read is left out and counted in the log."""
    image = datastore / f"{source.image_id}{KEPT_EXTENSION}"
    if _deletion_mark(datastore, source.image_id).exists():
        return
    if image.exists() and image.stat().st_mtime >= source.scan_path.stat().st_mtime:
        return
    try:
        if source.scan_path.is_dir():
            series = read_series(source.scan_path)
            volume = series.volume
            write_nifti(image, volume, sidecar_of(series.acquisition.parameters.replaced(source.known.known())))
        else:
            volume = read_nifti(source.scan_path)
            _copy_nifti(source.scan_path, image)
        if source.labels_path is not None:
            _copy_labels(source.labels_path, volume, datastore / "labels" / "final" / image.name)
    except CfmriError as error:
        logger.warning("A study was left out: %s", type(error).__name__)


def _copy_nifti(scan_path: Path, image: Path) -> None:
    sidecar = scan_path.with_name(scan_path.name.removesuffix(".gz").removesuffix(".nii") + ".json")
    if sidecar.is_file():
        _copy(sidecar, image.with_name(image.name.removesuffix(".nii.gz") + ".json"))
    _copy(scan_path, image)


def _copy_labels(labels_path: Path, volume: Volume, target: Path) -> None:
    if target.exists():
        return
    if labels_path.is_dir():
        write_nifti(target, read_tissue_masks(labels_path, volume), None)
        return
    if not read_nifti(labels_path).has_same_grid(volume, tolerance_mm=1e-2):
        logger.warning("Labels of a study were left out: they lie on another grid.")
        return
    _copy(labels_path, target)


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)
