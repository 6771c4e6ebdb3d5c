"""Which model is in use, and which were: publish a trained one, or go back to the one before."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance

from cfmri_core.errors import CfmriError
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.model_folder import locate_model
from cfmri_server.audit_trail import noted

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
list_router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])


@list_router.get("/models/{model}", tags=["Models"])
def list_versions(model: str) -> dict[str, Any]:
    """List the versions of a model, the shipped one (0) first, with the one in use and the one that waits."""
    task = app_instance().train_task(model)
    in_use, publications = task.models.store.publications(task.kind)
    shipped = {"version": 0, "sha256": _shipped_sha256(task.kind), "follows": None, "published": None,
               "comparison": None}  # fmt: skip
    versions = [shipped, *(asdict(publication) for publication in publications)]
    for version in versions:
        version.pop("folder", None)
        version["in_use"] = version["version"] == in_use
    return {"model": model, "kind": task.kind, "in_use": in_use, "versions": versions, "candidate": task.candidate()}


@router.post("/models/{model}/rollback", tags=["Models"])
def roll_back(request: Request, model: str) -> dict[str, Any]:
    """Make the model that was in use before the current one the one in use again."""
    task = app_instance().train_task(model)
    task.models.store.roll_back(task.kind)
    return _switched(request, model)


@router.post("/models/{model}/publish", tags=["Models"])
def publish(request: Request, model: str) -> dict[str, Any]:
    """Make the model of the last training the one in use, though the comparison was against it."""
    app_instance().train_task(model).publish_candidate()
    return _switched(request, model)


def _switched(request: Request, model: str) -> dict[str, Any]:
    """List the versions, and note for the audit log which weights are in use from now on."""
    listed = list_versions(model)
    sha256 = next((version["sha256"] for version in listed["versions"] if version["in_use"]), None)
    noted(request.scope)["in_use"] = {"model": model, "kind": listed["kind"], "sha256": sha256}
    return listed


def _shipped_sha256(kind: str) -> str | None:
    try:
        return weights_sha256(locate_model(kind))
    except CfmriError:
        return None
