"""MONAI Label's routes that save images and labels, off the event loop; nothing but these is left behind."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance

from cfmri_server.audit_trail import noted
from cfmri_server.identifiers import image_id_of, require_file_name
from cfmri_server.inference import stored_upload, streamed
from cfmri_server.request_schema import json_object

router = APIRouter(dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))])


@router.put("/datastore/", include_in_schema=False)
@router.put("/datastore/image", tags=["Datastore"])
def add_image(
    request: Request,
    file: Annotated[UploadFile, File()],
    image: str | None = None,
    params: Annotated[str, Form()] = "{}",
) -> dict[str, str]:
    """Store an image; one without an id is named after its file."""
    info = json_object("params", params)
    name = require_file_name(file.filename or "")
    with tempfile.TemporaryDirectory() as folder:
        path = stored_upload(file, "file", Path(folder))
        made: str = app_instance().datastore().add_image(image or image_id_of(name), str(path), info)
    noted(request.scope)["image"] = made
    return {"image": made}


@router.put("/datastore/label", tags=["Datastore"])
def save_label(
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = "final",
) -> dict[str, str]:
    """Store a label of an image."""
    info = json_object("params", params)
    require_file_name(label.filename or "", "label")
    with tempfile.TemporaryDirectory() as folder:
        path = stored_upload(label, "label", Path(folder))
        made: str = app_instance().datastore().save_label(image, str(path), tag or "final", info)
    return {"image": image, "label": made}


@router.put("/datastore/image/info", tags=["Datastore"])
def save_image_info(image: str, info: Annotated[str, Form()] = "{}") -> None:
    """Note something of an image that can be told again as JSON."""
    app_instance().datastore().update_image_info(image, json_object("info", info))


@router.put("/datastore/label/info", tags=["Datastore"])
def save_label_info(label: str, tag: str, info: Annotated[str, Form()] = "{}") -> None:
    """Note something of a label that can be told again as JSON."""
    app_instance().datastore().update_label_info(label, tag, json_object("info", info))


@router.put("/datastore/updatelabelinfo", include_in_schema=False)
def update_label_info(label: str, tag: str, params: Annotated[str, Form()] = "{}") -> None:
    """Note something of a label, by the old name of the route."""
    save_label_info(label, tag, params)


@router.get("/datastore/dataset", tags=["Datastore"])
def dataset(limit_cases: int | None = None) -> Response:
    """Return a ZIP archive of the labelled images; the file it is made in has no name."""
    with ExitStack() as opened:
        file = opened.enter_context(tempfile.TemporaryFile())
        app_instance().datastore().write_dataset(file, limit_cases)
        size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        answer = streamed(opened.pop_all(), file.read, size_bytes, "application/zip")
    answer.headers["Content-Disposition"] = 'attachment; filename="dataset.zip"'
    return answer
