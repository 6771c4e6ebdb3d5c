"""Which image to label next, and the scores that decide it: MONAI Label's routes without paths of the server."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from monailabel.config import settings
from monailabel.endpoints import scoring as stock_scoring
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import tasks

from cfmri_server.background_tasks import told
from cfmri_server.request_schema import NextCaseParams, RequestParams, parse_params
from cfmri_server.scores import EMPTY_PROGRESS, FAILED, RUNNING, ScoreFile

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
scoring_router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))])

Params = Annotated[dict[str, Any] | None, Body()]

#: What MONAI Label keeps of an image, as far as a client may know it: it adds the path on the server.
_IMAGE_INFO = ("ts", "checksum", "name")


@router.post("/activelearning/{strategy}", tags=["ActiveLearning"])
def next_case(strategy: str, params: Params = None) -> dict[str, Any]:
    """Return the unlabelled image to label next, and why; an empty object when none is left."""
    task = app_instance().strategy(strategy)
    checked = parse_params(NextCaseParams, params or {}, strategy).model_dump()
    datastore = app_instance().datastore()
    choice: dict[str, Any] | None = task(checked, datastore)
    if choice is None:
        return {}
    info = datastore.get_image_info(choice["id"])
    return {"name": choice["id"], **{key: info[key] for key in _IMAGE_INFO if key in info}, **choice}


@router.get("/scoring/progress/{method}", tags=["Scoring"])
def scoring_progress(method: str) -> dict[str, Any]:
    """Tell how far a scoring is: images scored, failed and in all, time left, state."""
    file: ScoreFile = app_instance().scoring_method(method).file
    task = next((task for task in reversed(tasks("scoring")) if task["request"]["method"] == method), None)
    is_active = task is not None and task["status"] in ("SUBMITTED", "RUNNING")
    if task is not None and is_active and not file.written_since(datetime.fromisoformat(task["start_ts"])):
        return {**EMPTY_PROGRESS, "state": RUNNING, "message": "Starting"}  # what is there tells of an earlier one
    progress = file.progress()
    if progress["state"] != RUNNING or is_active:
        return progress
    return {**progress, "state": FAILED if task and task["status"] == "ERROR" else "stopped", "eta_s": None}


@scoring_router.post("/scoring/{method}", tags=["Scoring"])
def score(method: str, params: Params = None) -> dict[str, Any]:
    """Start a scoring in a process of its own; 429 while another one runs."""
    app_instance().scoring_method(method)
    checked = parse_params(RequestParams, params or {}, method).model_dump()
    answer: dict[str, Any] = told(stock_scoring.run_method(method, checked, run_sync=False))
    return answer


@router.get("/scoring/", tags=["Scoring"])
def scoring_status(all: bool = False, check_if_running: bool = False) -> Any:  # noqa: A002 - MONAI Label's name
    """Tell of the last scoring, or of all; as MONAI Label's route, without the output of its process."""
    return told(stock_scoring.status(all, check_if_running))


@scoring_router.delete("/scoring/", tags=["Scoring"])
def stop_scoring() -> Any:
    """Stop the scoring that runs; as MONAI Label's route, without the output of its process."""
    return told(stock_scoring.stop())
