"""The series of an archive as MONAI Label's images: listed at once, fetched on first use, labels stored back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel

from cfmri_core.dicom.parser import parse_header, text_of
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.segmentation import AUTOMATIC, SEMIAUTOMATIC, write_segmentation
from cfmri_core.errors import DicomReadError, GeometryError
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.volume import Volume
from cfmri_server.archive import Archive, archive_of
from cfmri_server.datastore import ContainedDatastore
from cfmri_server.identifiers import KEPT_EXTENSION
from cfmri_server.outbox import SEGMENTATION
from cfmri_server.state import StateFolder
from cfmri_server.studies import prepare_datastore

FINAL = "final"


def open_datastore(studies: Path, *, auto_reload: bool, read_only: bool) -> ContainedDatastore:
    """Return the datastore of a studies folder, or that of the archive whose state the folder keeps."""
    archive = archive_of(studies)
    if archive is None:
        return ContainedDatastore(prepare_datastore(studies), auto_reload=auto_reload, read_only=read_only)
    return ArchiveDatastore(StateFolder.of(studies).datastore, archive, auto_reload=auto_reload, read_only=read_only)


class ArchiveDatastore(ContainedDatastore):
    """Images named by their SeriesInstanceUID, most of which are still in the archive.

    Args:
        folder: Where converted images and labels are kept.
        archive: Where the others are.
        auto_reload: As in the base class.
        read_only: As in the base class.
    """

    def __init__(self, folder: Path, archive: Archive, *, auto_reload: bool, read_only: bool) -> None:
        self.archive = archive
        self._folder = folder
        super().__init__(folder, auto_reload=auto_reload, read_only=read_only)
        self.refresh()  # the base class does not when it is read-only
        archive.on_change = self._on_change

    def on_disk(self, image: Path, progress: Progress = silent) -> Path:
        """Return an image's file, fetched and converted if it is still in the archive."""
        image_id = image.name.removesuffix(KEPT_EXTENSION)
        if image.is_file() or not self.archive.series.is_source(image_id):
            return image
        with FileLock(self.archive_lock(image_id)):
            if not image.is_file():
                self._convert(image_id, image, progress)
        return image

    def origin(self, image_id: str) -> dict[str, str]:
        """Return the series a result was made from, so that it can be stored beside it."""
        return {"source_image": image_id}

    def patient_of(self, image_id: str) -> str:
        """Return the PatientID of a fetched series, or its study where it has none: a patient has several series."""
        if not self.archive.is_fetched(image_id):
            return ""
        header, _ = parse_header(min(self.archive.fetched(image_id).iterdir()))
        return text_of(header, "PatientID") or text_of(header, "StudyInstanceUID") or ""

    def queue_segmentation(self, image_id: str, labels: Volume, made_by: str) -> str:
        """Queue labels of an archived image as a DICOM SEG, and return its series."""
        series = read_series(self.archive.fetched(image_id))
        return self.archive.outbox.add(
            SEGMENTATION, image_id, lambda folder: write_segmentation(folder / "0001.dcm", series, labels, made_by)
        )

    def remove_image(self, image_id: str) -> None:
        """Remove an image's copy and labels here; the archive keeps its series, and it stays listed."""
        super().remove_image(image_id)
        self.archive.forget(image_id)

    def archive_lock(self, image_id: str) -> Path:
        """Return the lock file of one image's conversion."""
        return self._folder / f".{image_id}.lock"

    def _pass_on(self, image_id: str, tag: str, label: Volume, info: Mapping[str, Any]) -> None:
        """Queue a final label of an archived image for the archive, as a DICOM SEG.

        It is queued before it is stored: if the server dies in between, the client has no answer and saves again, and
        the same labels make the same SEG.

        Raises:
            GeometryError: It does not lie on its image's grid, or holds other values than the tissues'.
        """
        if tag == FINAL and self.archive.series.is_source(image_id):
            self.queue_segmentation(image_id, label, AUTOMATIC if "model" in info else SEMIAUTOMATIC)

    def _convert(self, image_id: str, image: Path, progress: Progress) -> None:
        folder = self.archive.fetched(image_id, progress)
        try:
            series = read_series(folder)
            write_nifti(image, series.volume, sidecar_of(series.acquisition.parameters))
        except (DicomReadError, GeometryError) as error:
            self.archive.series.refuse(image_id, type(error).__name__)
            message = error.message.replace(f"{folder}/", "").removeprefix(f"{folder}: ")
            raise type(error)(message, error.hint) from None

    def _on_change(self, changed: set[str]) -> None:
        """Take up a new listing; a copy of a series that has other images now is dropped unless it is labelled."""
        for image_id in changed - set(self.get_labeled_images()):
            self.archive.forget(image_id)
            for extension in (KEPT_EXTENSION, ".json"):
                (self._folder / f"{image_id}{extension}").unlink(missing_ok=True)
        self.refresh()

    def _is_there(self, image_id: str, file: Path) -> bool:
        return super()._is_there(image_id, file) or self.archive.series.is_source(image_id)

    def _add_non_existing_images(self) -> int:
        added: int = super()._add_non_existing_images()
        for image_id, entry in self.archive.series.sources().items():
            if image_id not in self._datastore.objects:
                info = {
                    "name": f"{image_id}{KEPT_EXTENSION}",
                    "description": entry.series.description,
                    "images": entry.series.images,
                    "acquisition": dict(entry.acquisition),
                }
                self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=KEPT_EXTENSION))
                added += 1
        return added
