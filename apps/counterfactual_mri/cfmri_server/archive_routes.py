"""Routes of a server of an archive: what it has, list it again, store a result in it, and images off the event loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from monailabel.config import settings
from monailabel.endpoints import datastore as stock_datastore
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom.derive import write_derived_series
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.segmentation import AUTOMATIC
from cfmri_server.archive import Archive
from cfmri_server.archive_datastore import ArchiveDatastore
from cfmri_server.images import read_image
from cfmri_server.inference import job_queue
from cfmri_server.jobs import Outcome
from cfmri_server.outbox import COUNTERFACTUAL
from cfmri_server.problem import FieldError, NotFoundError, NotReadyError

router = APIRouter(tags=["Archive"], dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
storing = APIRouter(tags=["Archive"], dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))])


def _datastore() -> ArchiveDatastore:
    datastore = app_instance().datastore()
    if not isinstance(datastore, ArchiveDatastore):
        raise NotFoundError("This server works for no archive.", "Start one with: cfmri serve http://HOST/dicom-web")
    return datastore


def _archive() -> Archive:
    return _datastore().archive


@router.get("/archive/")
def archive_status(archive: Annotated[Archive, Depends(_archive)]) -> dict[str, Any]:
    """Tell what the archive has, and which uploads wait, failed or are stored."""
    return archive.status()


@router.post("/archive/refresh")
def refresh(archive: Annotated[Archive, Depends(_archive)]) -> dict[str, Any]:
    """List the archive now, and answer as ``GET /archive/``."""
    archive.refresh()
    return archive.status()


@router.get("/datastore/image")
@router.head("/datastore/image")
def image_file(request: Request, image: str, check_sum: str | None = None) -> Any:
    """Return an image; as MONAI Label's route, but off the event loop, and fetched if it is still in the archive."""
    datastore = app_instance().datastore()
    datastore.on_disk(datastore.require_image(image))
    return stock_datastore.download_image(image, check_only=request.method == "HEAD", check_sum=check_sum)


@storing.post("/jobs/{job_id}/store", status_code=202)
def store_result(job_id: str, datastore: Annotated[ArchiveDatastore, Depends(_datastore)]) -> dict[str, str]:
    """Queue the image of a finished job for the archive; ``GET /archive/`` tells when it is there.

    A counterfactual becomes a derived series marked as synthetic, labels become a DICOM SEG. The same result always
    gets the same identifiers, so that asking twice stores once.
    """
    job = job_queue().get(job_id)
    if job.outcome is None:
        raise NotReadyError(f"The job is {job.state}.", "Ask GET /jobs/{id} for its state first.")
    image_id = job.outcome.report.get("source_image", "")
    if job.outcome.image is None or not datastore.archive.is_fetched(image_id or "-"):
        raise FieldError("The job has no image made from one of the archive.", "Start it with ?image=ID.", field="id",
                         value=job_id)  # fmt: skip
    if "requested" in job.outcome.report:
        return {"id": _queue_counterfactual(datastore.archive, image_id, job.outcome, job.outcome.image)}
    labels = read_image(job.outcome.image).volume
    return {"id": datastore.queue_segmentation(image_id, labels, AUTOMATIC)}


def _queue_counterfactual(archive: Archive, image_id: str, outcome: Outcome, image: Path) -> str:
    series = read_series(archive.fetched(image_id))
    volume = read_image(image).volume
    known = {name: value for name, value in outcome.report["requested"].items() if value is not None}
    requested = AcquisitionParameters().replaced(known)
    return archive.outbox.add(
        COUNTERFACTUAL, image_id, lambda folder: write_derived_series(folder, series, volume, requested, outcome.report)
    )
