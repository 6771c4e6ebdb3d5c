"""Inference over HTTP: ``/infer`` as MONAI Label's clients know it, and ``/jobs`` with progress and cancel.

Both put the work into one queue, so an inference never blocks the event loop nor another model. What reads or
writes files for a request runs in a few threads of its own: many clients with large images then wait for each
other, and ``/info/`` for none of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from requests_toolbelt import MultipartEncoder

from cfmri_core.errors import Cancelled, CfmriError
from cfmri_core.progress import Progress
from cfmri_server.audit_trail import later, noted
from cfmri_server.identifiers import require_image_extension, require_session_id
from cfmri_server.job import CANCELLED, Job, Outcome
from cfmri_server.jobs import JobQueue
from cfmri_server.problem import FieldError, NotFoundError, NotReadyError
from cfmri_server.request_schema import parse_params
from cfmri_server.state import StateFolder

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])

#: How often a waiting ``/infer`` looks whether its client is still there, in seconds.
_LOOK_EVERY_S = 0.5

#: How often results that are too old are looked for, in seconds.
_SWEEP_EVERY_S = 60.0

_CHUNK_BYTES = 2**20
_BINARY = "application/octet-stream"

Result = TypeVar("Result")

_file_threads, _info_threads = CapacityLimiter(8), CapacityLimiter(2)


async def _threaded(function: Callable[..., Result], *arguments: Any, limiter: CapacityLimiter | None = None) -> Result:
    return await to_thread.run_sync(function, *arguments, limiter=limiter or _file_threads)


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
        label: Mask on the image's grid, uploaded with it, or ``None``.
    """

    image: str
    session_id: str
    params: str
    file: UploadFile | None
    label: UploadFile | None = None

    @property
    def image_id(self) -> str:
        """The datastore image that is used, or an empty text."""
        return "" if self.file is not None or self.session_id else self.image

    @property
    def ids(self) -> dict[str, str]:
        """What is used, as the audit log calls it; nothing for an upload."""
        ids = {"image": self.image_id, "session": "" if self.file is not None else self.session_id}
        return {name: value for name, value in ids.items() if value}


async def request_input(
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
) -> Input:
    """Collect the query, form and file of an inference request."""
    return Input(image, session_id, params, file, label)


RequestInput = Annotated[Input, Depends(request_input)]


@lru_cache(maxsize=1)
def job_queue() -> JobQueue:
    """Return the process's queue; the first call takes up what an earlier server finished."""
    queue = JobQueue(StateFolder.of(Path(settings.MONAI_LABEL_STUDIES)).jobs)
    threading.Thread(target=queue.watch_age, args=(_SWEEP_EVERY_S,), name="job-age", daemon=True).start()
    return queue


@router.get("/info/", tags=["App"])
async def info() -> Response:
    """Tell what the server offers; as MONAI Label's route, but off the event loop."""
    return await _threaded(lambda: JSONResponse(jsonable_encoder(app_instance().info())), limiter=_info_threads)


@router.post("/infer/{model}", tags=["Infer"])
async def infer(request: Request, model: str, given: RequestInput, output: str = "all") -> Response:
    """Run an inference and wait for it; a client that goes away cancels it."""
    noted(request.scope).update(given.ids)
    wanted = _output(output)
    job = await _threaded(partial(submit, model, given, is_lasting=False))
    finished = asyncio.wrap_future(job.finished)
    try:
        while not finished.done():
            await asyncio.wait([finished], timeout=_LOOK_EVERY_S)
            if not finished.done() and await request.is_disconnected():
                await _threaded(job_queue().cancel, job)
        return await _threaded(response, job, wanted)
    finally:
        noted(request.scope)["ran"] = _ran(job)
        await _threaded(job_queue().forget, job)


@router.post("/jobs/{model}", tags=["Jobs"], status_code=202)
async def create_job(request: Request, model: str, given: RequestInput) -> dict[str, str]:
    """Queue an inference; it goes on without its client."""
    noted(request.scope).update(given.ids)
    job = await _threaded(submit, model, given)
    noted(request.scope)["job"] = job.id
    write = later(request.scope)
    job.finished.add_done_callback(lambda _: write({"action": "end job", "job": job.id, "ran": _ran(job)}))
    return {"id": job.id}


@router.get("/jobs/{job_id}", tags=["Jobs"])
async def job_status(job_id: str) -> dict[str, Any]:
    """Tell how far a job is."""
    return job_queue().get(job_id).status()


@router.get("/jobs/{job_id}/result", tags=["Jobs"])
async def job_result(request: Request, job_id: str) -> Response:
    """Return what the job computed, as ``/infer`` does."""
    job = job_queue().get(job_id)
    noted(request.scope)["ran"] = _ran(job)
    return await _threaded(response, job, Output.ALL)


@router.delete("/jobs/{job_id}", tags=["Jobs"])
async def delete_job(job_id: str) -> dict[str, Any]:
    """Cancel a job that waits or runs; drop one that is finished."""
    job = job_queue().get(job_id)
    await _threaded(job_queue().forget if job.is_final else job_queue().cancel, job)
    return job.status()


def submit(model: str, given: Input, *, is_lasting: bool = True) -> Job:
    """Check a request and queue it.

    Args:
        model: Name of the model.
        given: The request.
        is_lasting: Whether its result is kept for later.

    Raises:
        CfmriError: The request is not acceptable, or the queue is full.
    """
    task = app_instance().infer_task(model)
    if not task.is_valid():
        raise CfmriError(f"The server has no trained {model}.", "Train one with POST /train/.")
    params = parse_params(task.schema, given.params, model)
    task.check(params, has_label=given.label is not None)
    source = _named_source(given)
    job = job_queue().open(model, task.device(params), is_lasting=is_lasting)
    try:
        path = source or stored_upload(given.file, "file", job.folder)
        label = None if given.label is None else stored_upload(given.label, "label", job.folder)

        def work(folder: Path, progress: Progress) -> Outcome:
            outcome = task.run(app_instance().datastore().on_disk(path, progress), params, folder, progress, label)
            origin = app_instance().datastore().origin(given.image_id) if given.image_id else {}
            return dataclasses.replace(outcome, report={**outcome.report, **origin})

        job_queue().start(job, work)
    except Exception:
        job_queue().forget(job)
        raise
    return job


def _ran(job: Job) -> dict[str, Any]:
    """Return what the audit log keeps of a job: its state and which model computed."""
    used = job.outcome.report.get("model", {}) if job.outcome else {}
    return {"model": job.model, "state": job.state, "kind": used.get("kind"), "sha256": used.get("sha256")}


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


def stored_upload(upload: UploadFile | None, field: str, folder: Path) -> Path:
    """Store the upload of a part under the part's name.

    Raises:
        FieldError: There is none, or its name does not end as an image's.
    """
    if upload is None:
        raise FieldError("No image is given.", field=field)
    path = folder / f"{field}{require_image_extension(upload.filename or '', field)}"
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


def response(job: Job, output: Output) -> Response:
    """Build the answer from a finished job, or raise why there is none.

    The image is opened here and sent piece by piece, so a result that is dropped meanwhile still arrives whole,
    and many large ones do not fill the memory.
    """
    if job.failure is not None:
        return JSONResponse({"detail": job.failure.detail}, job.failure.status)
    if job.state == CANCELLED:
        raise Cancelled("The job was cancelled.")
    outcome = job.outcome
    if not job.is_final or outcome is None:
        raise NotReadyError(f"The job is {job.state}.", "Ask GET /jobs/{id} for its state first.")
    if output is Output.IMAGE and outcome.image is None:
        raise FieldError(f"{job.model} gives no image.", field="output", value="image", accepted="all, json")
    if output is Output.JSON or outcome.image is None:
        return JSONResponse(outcome.report)
    with ExitStack() as opened:
        try:
            images = {name: opened.enter_context(path.open("rb")) for name, path in outcome.images().items()}
        except FileNotFoundError:
            raise NotFoundError("The result was dropped.", field="id", value=job.id) from None
        still_open = opened.pop_all()
    if output is Output.IMAGE:
        image = images["image"]
        return streamed(still_open, image.read, os.fstat(image.fileno()).st_size, _BINARY)
    report = (None, json.dumps(outcome.report), "application/json")
    files = {name: (path.name, images[name], _BINARY) for name, path in outcome.images().items()}
    body = MultipartEncoder({"params": report, **files})
    return streamed(still_open, body.read, body.len, body.content_type)


def streamed(opened: ExitStack, read: Callable[[int], bytes], size_bytes: int, media_type: str) -> StreamingResponse:
    """Build an answer that is read piece by piece; what is open for it is closed behind the last."""

    def pieces() -> Iterator[bytes]:
        with opened:
            while piece := read(_CHUNK_BYTES):
                yield piece

    return StreamingResponse(pieces(), media_type=media_type, headers={"Content-Length": str(size_bytes)})
