"""Training and batch inference over HTTP: MONAI Label's routes behind our check of the parameters."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints import batch_infer as stock_batch
from monailabel.endpoints import train as stock_train
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.utils import tasks

from cfmri_server.background_tasks import told
from cfmri_server.identifiers import require_label_tag
from cfmri_server.problem import FieldError
from cfmri_server.request_schema import parse_params

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
progress_router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])

Params = Annotated[dict[str, Any] | None, Body()]

_ACTIVE_STATES = ("preparing", "running")
#: MONAI Label's words for a task that is to run or runs.
_UNFINISHED = ("SUBMITTED", "RUNNING")
_one_at_a_time = threading.Lock()
#: A training that has no process after this long never gets one.
_LONGEST_START_S = 60


@router.post("/train/{model}", tags=["Train"])
def train(model: str, params: Params = None, enqueue: bool = False, run_sync: bool = False) -> dict[str, Any]:
    """Start a training in a process of its own; 429 while another one runs, unless ``enqueue``."""
    task = app_instance().train_task(model)
    if run_sync:
        raise FieldError("Training inside the server is not offered.", field="run_sync", value=True, accepted="false")
    checked = parse_params(task.schema, params or {}, model).model_dump(exclude_none=True)
    with _one_at_a_time:
        if not enqueue and _is_starting():
            raise HTTPException(429, "A training begins: wait for it, stop it (DELETE /train/), or ask with enqueue.")
        answer: dict[str, Any] = told(stock_train.run_model(model, checked, run_sync=False, enqueue=enqueue))
    task.expect(checked.get("epochs"))  # its process takes seconds to start; the last training's state must not show
    return answer


@progress_router.get("/train/", tags=["Train"])
def train_status(all: bool = False, check_if_running: bool = False) -> Any:  # noqa: A002 - MONAI Label's name
    """Tell of the last training, or of all; as MONAI Label's route, without the output of its process."""
    return told(stock_train.status(all, check_if_running))


@router.delete("/train/", tags=["Train"])
def stop_training() -> Any:
    """Stop the training that runs; as MONAI Label's route, without the output of its process."""
    return told(stock_train.stop())


def _is_starting() -> bool:
    """Whether a training was asked for a moment ago: MONAI Label counts processes, and its own is not there yet."""
    asked = [datetime.fromisoformat(one["start_ts"]) for one in tasks("train") if one["status"] == "SUBMITTED"]
    return any((datetime.now() - at).total_seconds() < _LONGEST_START_S for at in asked)


@progress_router.get("/train/progress/{model}", tags=["Train"])
def train_progress(model: str) -> dict[str, Any]:
    """Tell how far the training of a model is: epoch, loss, metric, time left, state, curve."""
    progress: dict[str, Any] = app_instance().train_task(model).progress()
    if progress["state"] not in _ACTIVE_STATES:
        return progress
    status = next((task["status"] for task in reversed(tasks("train")) if task["request"]["model"] == model), "STOPPED")
    if status in _UNFINISHED:
        return progress
    ended = (
        "The training ended without a word, perhaps for want of memory or beside another"
        if status == "ERROR"
        else "Stopped"
    )
    kept = progress["kept_epoch"]
    goes_on = f"asked for again it goes on after epoch {kept}" if kept else "asked for again it begins anew"
    state = "failed" if status == "ERROR" else "stopped"
    return {**progress, "state": state, "eta_s": None, "message": f"{ended}; {goes_on}."}


@router.post("/batch/infer/{model}", tags=["Infer"])
def batch_infer(
    model: str, images: BatchInferImageType = BatchInferImageType.IMAGES_ALL, params: Params = None
) -> dict[str, Any]:
    """Run a model on many images of the datastore in a process of its own; results become labels of a tag."""
    task = app_instance().infer_task(model)
    given = dict(params or {})
    tag = require_label_tag(str(given.pop("label_tag", "original")))
    given.pop("save_label", None)
    size = given.pop("max_batch_size", 0)
    if not isinstance(size, int) or size < 0:
        raise FieldError("max_batch_size is not acceptable.", field="max_batch_size", value=size, accepted="0 or more")
    if str(given.get("device", "")).startswith("cuda"):
        given["device"] = "auto"  # MONAI Label's own default, with or without a GPU
    checked = parse_params(task.schema, given, model).model_dump(exclude_none=True)
    # One worker and no GPU list: with its defaults MONAI Label divides by the number of GPUs, also by none.
    own = {"label_tag": tag, "multi_gpu": False, "max_workers": 1, "max_batch_size": size, "logging": "ERROR"}
    answer: dict[str, Any] = told(stock_batch.run(model, images, {**checked, **own}, run_sync=False))
    return answer


@progress_router.get("/batch/infer", tags=["Infer"])
def batch_status(all: bool = False, check_if_running: bool = False) -> Any:  # noqa: A002 - MONAI Label's name
    """Tell of the last batch, or of all; as MONAI Label's route, without the output of its process."""
    return told(stock_batch.status(all, check_if_running))


@router.delete("/batch/infer", tags=["Infer"])
def stop_batch() -> Any:
    """Stop the batch that runs; as MONAI Label's route, without the output of its process."""
    return told(stock_batch.stop())
