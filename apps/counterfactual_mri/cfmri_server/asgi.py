"""The ASGI application: MONAI Label's, with our routes in front of its own and the guard before all.

For ``monailabel start_server`` it is ``--uvicorn_app cfmri_server.asgi:app``; `launch.py` starts it directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, File, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints import session as stock_session
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException

from cfmri_core import __version__
from cfmri_core.errors import CfmriError
from cfmri_server import active_learning, archive_routes, datastore_routes, inference, publishing, training
from cfmri_server.audit import AuditLog
from cfmri_server.audit_trail import AuditTrail, noted
from cfmri_server.exposure import Exposure
from cfmri_server.guard import Guard
from cfmri_server.identifiers import require_image_extension, require_session_id
from cfmri_server.jobs import typed
from cfmri_server.parameters import API_VERSION
from cfmri_server.problem import BusyError, ClosedRouteError, FieldError, body_of, detail_of, response_of
from cfmri_server.state import StateFolder
from cfmri_server.tokens import TokenFile

#: Most sessions stored at once.
MAX_SESSIONS = 64


health = APIRouter()
sessions = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])


@health.get("/healthz", tags=["App"])
async def healthz() -> dict[str, Any]:
    """Tell that the server answers."""
    return {"status": "ok", "version": __version__, "api_version": API_VERSION}


@sessions.get("/session/{session_id}", tags=["Session"])
def get_session(session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    """Return a session, or its image; as MONAI Label's route, for ids that it gives out only."""
    found = stock_session.get_session(require_session_id(session_id), update_ts, False)
    if not image:
        return found
    if not Path(found["image"]).is_file():
        raise FieldError(
            "The session holds several files.", "Ask without image=true.", field="image", value=True, accepted="false"
        )
    return stock_session.get_session(session_id, update_ts, True)


@sessions.delete("/session/{session_id}", tags=["Session"])
def remove_session(session_id: str) -> Any:
    """Remove a session; as MONAI Label's route, for ids that it gives out only."""
    return stock_session.remove_session(require_session_id(session_id))


@sessions.put("/session/", tags=["Session"])
def create_session(
    request: Request,
    background_tasks: BackgroundTasks,
    files: Annotated[list[UploadFile], File()],
    expiry: int = 0,
    uncompress: bool = False,
) -> Any:
    """Store images for later requests; as MONAI Label's route, off the event loop, archives never unpacked."""
    if uncompress:
        raise ClosedRouteError("Archives are not unpacked.", "Send the files of the series one by one.")
    if len(list(Path(settings.MONAI_LABEL_SESSION_PATH).glob("*"))) >= MAX_SESSIONS:
        raise BusyError(f"{MAX_SESSIONS} sessions are stored already.", "Delete one; an unused one goes after an hour.")
    for number, file in enumerate(files):  # names of clients may leave the folder, and may hold a patient's name
        file.filename = (
            f"{number:05d}.dcm" if len(files) > 1 else f"image{require_image_extension(file.filename or '')}"
        )
    answer: dict[str, Any] = stock_session.create_session(background_tasks, False, expiry, files)
    noted(request.scope)["session"] = answer["session_id"]
    return answer


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return response_of(typed(error))


async def _monailabel_refused(_: Request, error: Exception) -> JSONResponse:
    message = str(getattr(error, "msg", "")) or type(error).__name__
    return JSONResponse(body_of(FieldError(message)), 404 if "not found" in message.lower() else 400)


async def _bare(_: Request, error: Exception) -> JSONResponse:
    """Give an error of FastAPI, Starlette or MONAI Label the shape of ours."""
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    if not isinstance(detail, dict):
        is_body = detail == "There was an error parsing the body"  # such as JSON too deep for the parser
        status = 422 if is_body else status
        message = str(detail or "The request failed").rstrip(".")
        detail = detail_of(FieldError(f"{message}.", field="body" if is_body else ""))
    return JSONResponse({"detail": detail}, status, getattr(error, "headers", None))


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    field = ".".join(str(part) for part in first.get("loc", ())[1:])
    refusal = FieldError(f"{field or 'The request'} is not acceptable: {first.get('msg', '').lower()}.", field=field,
                         value=first.get("input"))  # fmt: skip
    return response_of(refusal)


def install(target: FastAPI) -> FastAPI:
    """Put our routes in front of MONAI Label's, and typed answers in place of bare errors.

    FastAPI keeps an included router as one entry that cannot be taken out again; the first match
    wins, so ours go to the front of the list.
    """
    trainings = (training.progress_router, training.router, publishing.list_router, publishing.router)
    labelling = (active_learning.router, active_learning.scoring_router)
    archives = (archive_routes.router, archive_routes.storing)
    routers = (health, inference.router, *trainings, *labelling, *archives, datastore_routes.router, sessions)
    for position, router in enumerate(routers):
        target.include_router(router)
        target.router.routes.insert(position, target.router.routes.pop())
    target.add_exception_handler(CfmriError, _refused)
    target.add_exception_handler(MONAILabelException, _monailabel_refused)
    target.add_exception_handler(RequestValidationError, _malformed)
    target.add_exception_handler(HTTPException, _bare)
    # MONAI Label answers any web page with credentials; a list in its settings breaks its training process
    # (URLs that json.dumps cannot write). So its middleware goes, and ours knows only the origins asked for.
    target.user_middleware[:] = [entry for entry in target.user_middleware if entry.cls is not CORSMiddleware]
    exposure = Exposure.from_environment()
    tokens = TokenFile(exposure.tokens) if exposure.tokens else None
    target.add_middleware(Guard, hosts=exposure.host_names, tokens=tokens)
    target.add_middleware(AuditTrail, log=AuditLog(StateFolder.of(Path(settings.MONAI_LABEL_STUDIES)).audit))
    if exposure.allowed_origins:
        target.add_middleware(
            CORSMiddleware,
            allow_origins=exposure.allowed_origins,
            allow_credentials=False,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return target


app = install(app)
