"""Inference over HTTP: ``/infer`` as MONAI Label's clients know it, and ``/jobs`` with progress and cancel.

Both put the work into one queue, so an inference never blocks the event loop nor another model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from requests_toolbelt import MultipartEncoder
from starlette.concurrency import run_in_threadpool

from cfmri_core.errors import Cancelled, CfmriError
from cfmri_core.progress import Progress
from cfmri_server.identifiers import require_image_extension, require_session_id
from cfmri_server.jobs import CANCELLED, DONE, FAILED, Job, JobQueue, Outcome
from cfmri_server.problem import FieldError, NotFoundError, NotReadyError
from cfmri_server.request_schema import parse_params
from cfmri_server.state import StateFolder

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])

#: How often a waiting ``/infer`` looks whether its client is still there, in seconds.
_LOOK_EVERY_S = 0.5


class Output(StrEnum):
    """What ``/infer`` returns: both parts, or one of them."""

    ALL = "all"
    JSON = "json"
    IMAGE = "image"


@dataclass(frozen=True)
class Input:
    """Where the image of a request comes from; exactly one is used: upload, session, datastore id.

    Attributes:
        image: Id in the datastore, or empty.
        session_id: MONAI Label session, or empty.
        params: JSON text of the form field.
        file: Upload, or ``None``.
    """

    image: str
    session_id: str
    params: str
    file: UploadFile | None

    @property
    def image_id(self) -> str:
        """The datastore image that is used, or an empty text."""
        return "" if self.file is not None or self.session_id else self.image


def request_input(
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
) -> Input:
    """Collect the query, form and file of an inference request."""
    return Input(image, session_id, params, file)


RequestInput = Annotated[Input, Depends(request_input)]


@lru_cache(maxsize=1)
def job_queue() -> JobQueue:
    """Return the process's queue."""
    return JobQueue(StateFolder.of(Path(settings.MONAI_LABEL_STUDIES)).work / "jobs")


@router.post("/infer/{model}", tags=["Infer"])
async def infer(request: Request, model: str, given: RequestInput, output: str = "all") -> Response:
    """Run an inference and wait for it; a client that goes away cancels it."""
    wanted = _output(output)
    job = await run_in_threadpool(submit, model, given)
    try:
        while not job.finished.done():
            await asyncio.wait([asyncio.wrap_future(job.finished)], timeout=_LOOK_EVERY_S)
            if await request.is_disconnected():
                job_queue().cancel(job)
        return await run_in_threadpool(_response, job, wanted)
    finally:
        await run_in_threadpool(job_queue().forget, job)


@router.post("/jobs/{model}", tags=["Jobs"], status_code=202)
def create_job(model: str, given: RequestInput) -> dict[str, str]:
    """Queue an inference; it goes on without its client."""
    return {"id": submit(model, given).id}


@router.get("/jobs/{job_id}", tags=["Jobs"])
async def job_status(job_id: str) -> dict[str, Any]:
    """Tell how far a job is."""
    return job_queue().get(job_id).status()


@router.get("/jobs/{job_id}/result", tags=["Jobs"])
def job_result(job_id: str) -> Response:
    """Return what the job computed, as ``/infer`` does."""
    return _response(job_queue().get(job_id), Output.ALL)


@router.delete("/jobs/{job_id}", tags=["Jobs"])
def delete_job(job_id: str) -> dict[str, Any]:
    """Cancel a job that waits or runs; drop one that is finished."""
    job = job_queue().get(job_id)
    if job.is_final:
        job_queue().forget(job)
    else:
        job_queue().cancel(job)
    return job.status()


def submit(model: str, given: Input) -> Job:
    """Check a request and queue it.

    Raises:
        CfmriError: The request is not acceptable, or the queue is full.
    """
    task = app_instance().infer_task(model)
    if not task.is_valid():
        raise CfmriError(f"The server has no trained {model}.", "Train one with POST /train/.")
    params = parse_params(task.schema, given.params, model)
    source = _named_source(given)
    job = job_queue().open(model)
    try:
        path = source or _stored_upload(given, job.folder)
    except Exception:
        job_queue().cancel(job)
        job_queue().forget(job)
        raise

    def work(folder: Path, progress: Progress) -> Outcome:
        outcome = task.run(app_instance().datastore().on_disk(path, progress), params, folder, progress)
        source_image = {"source_image": given.image_id} if given.image_id else {}
        return dataclasses.replace(outcome, report={**outcome.report, **source_image})

    job_queue().start(job, work)
    return job


def _named_source(given: Input) -> Path | None:
    """Return the file of a session or a datastore image; ``None`` where there is an upload."""
    if given.file is not None:
        require_image_extension(given.file.filename or "")
        return None
    if given.session_id:
        sessions = app_instance().sessions()
        session = None if sessions is None else sessions.get_session(require_session_id(given.session_id))
        if session is None:
            raise NotFoundError("There is no such session.", field="session_id", value=given.session_id)
        return Path(session.image)
    if not given.image:
        raise FieldError("No image is given.", "Name one with ?image=, or send a file.", field="image")
    return Path(app_instance().datastore().require_image(given.image))


def _stored_upload(given: Input, folder: Path) -> Path:
    upload = given.file
    if upload is None:
        raise FieldError("No image is given.", field="file")
    path = folder / f"input{require_image_extension(upload.filename or '')}"
    with path.open("wb") as target:
        shutil.copyfileobj(upload.file, target)
    return path


def _output(output: str) -> Output:
    try:
        return Output(output or "all")
    except ValueError:
        raise FieldError(
            "There is no such output.", "DICOM results: cfmri edit and cfmri segment.", field="output", value=output,
            accepted="all, json, image",
        ) from None  # fmt: skip


def _response(job: Job, output: Output) -> Response:
    """Build the answer from a finished job, or raise why there is none."""
    if job.state == FAILED and job.error is not None:
        raise job.error
    if job.state == CANCELLED:
        raise Cancelled("The job was cancelled.")
    if job.state != DONE or job.outcome is None:
        raise NotReadyError(f"The job is {job.state}.", "Ask GET /jobs/{id} for its state first.")
    outcome = job.outcome
    if output is Output.IMAGE:
        if outcome.image is None:
            raise FieldError(f"{job.model} gives no image.", field="output", value="image", accepted="all, json")
        return Response(outcome.image.read_bytes(), media_type="application/octet-stream")
    if output is Output.JSON or outcome.image is None:
        return JSONResponse(outcome.report)
    fields = {
        "params": (None, json.dumps(outcome.report), "application/json"),
        "image": (outcome.image.name, outcome.image.read_bytes(), "application/octet-stream"),
    }
    body = MultipartEncoder(fields=fields)
    return Response(body.to_string(), media_type=body.content_type)
