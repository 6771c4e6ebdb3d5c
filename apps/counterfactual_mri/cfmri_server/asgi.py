"""The ASGI application: MONAI Label's, with our routes in front of its own and the guard before all.

For ``monailabel start_server`` it is ``--uvicorn_app cfmri_server.asgi:app``; `launch.py` starts it directly.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints import datastore as stock_datastore
from monailabel.endpoints import session as stock_session
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException

from cfmri_core import __version__
from cfmri_core.errors import CfmriError
from cfmri_server import archive_routes, inference, training
from cfmri_server.guard import Guard
from cfmri_server.identifiers import require_session_id
from cfmri_server.jobs import typed
from cfmri_server.parameters import API_VERSION
from cfmri_server.problem import FieldError, body_of, headers_of

logger = logging.getLogger("cfmri.server")

health = APIRouter()
uploads = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))])
sessions = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])


@health.get("/healthz", tags=["App"])
async def healthz() -> dict[str, Any]:
    """Tell that the server answers."""
    return {"status": "ok", "version": __version__, "api_version": API_VERSION}


@uploads.put("/datastore/", include_in_schema=False)
@uploads.put("/datastore/image", tags=["Datastore"])
def add_image(
    background_tasks: BackgroundTasks,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> Any:
    """Store an image; as MONAI Label's route, but off the event loop."""
    return stock_datastore.add_image(background_tasks, image, params, file)


@uploads.put("/datastore/label", tags=["Datastore"])
def save_label(
    background_tasks: BackgroundTasks,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = "final",
) -> Any:
    """Store a label of an image; as MONAI Label's route, but off the event loop."""
    return stock_datastore.save_label(background_tasks, image, params, tag, label)


@sessions.get("/session/{session_id}", tags=["Session"])
def get_session(session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """Return a session; as MONAI Label's route, for ids that it gives out only."""
    return stock_session.get_session(require_session_id(session_id), update_ts, image)


@sessions.delete("/session/{session_id}", tags=["Session"])
def remove_session(session_id: str) -> Any:
    """Remove a session; as MONAI Label's route, for ids that it gives out only."""
    return stock_session.remove_session(require_session_id(session_id))


@sessions.put("/session/", tags=["Session"])
def create_session(
    background_tasks: BackgroundTasks, files: Annotated[list[UploadFile], File()], expiry: int = 0
) -> Any:
    """Store images for later requests; as MONAI Label's route, off the event loop, archives never unpacked."""
    return stock_session.create_session(background_tasks, False, expiry, files)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    typed_error = typed(error)
    return JSONResponse(body_of(typed_error), typed_error.http_status, headers_of(typed_error))


async def _monailabel_refused(_: Request, error: Exception) -> JSONResponse:
    message = str(getattr(error, "msg", "")) or type(error).__name__
    return JSONResponse(body_of(FieldError(message)), 404 if "not found" in message.lower() else 400)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    field = ".".join(str(part) for part in first.get("loc", ())[1:])
    refusal = FieldError(f"{field or 'The request'} is not acceptable: {first.get('msg', '').lower()}.", field=field,
                         value=first.get("input"))  # fmt: skip
    return JSONResponse(body_of(refusal), refusal.http_status)


def install(target: FastAPI) -> FastAPI:
    """Put our routes in front of MONAI Label's, and typed answers in place of bare errors.

    FastAPI keeps an included router as one entry that cannot be taken out again; the first match
    wins, so ours go to the front of the list.
    """
    routers = (
        health, inference.router, training.progress_router, training.router, archive_routes.router,
        archive_routes.storing, uploads, sessions,
    )  # fmt: skip
    for position, router in enumerate(routers):
        target.include_router(router)
        target.router.routes.insert(position, target.router.routes.pop())
    target.add_exception_handler(CfmriError, _refused)
    target.add_exception_handler(MONAILabelException, _monailabel_refused)
    target.add_exception_handler(RequestValidationError, _malformed)
    # MONAI Label answers any web page with credentials; a list in its settings breaks its training process
    # (URLs that json.dumps cannot write). Our clients are no web pages, so no other origin is answered.
    target.user_middleware[:] = [entry for entry in target.user_middleware if entry.cls is not CORSMiddleware]
    target.add_middleware(Guard)
    return target


app = install(app)
