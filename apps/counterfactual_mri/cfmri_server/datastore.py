"""MONAI Label's local datastore, kept inside its folder and written whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import CfmriError, RequestError
from cfmri_core.io.atomic import atomic_file, write_text
from cfmri_core.io.json_text import json_text
from cfmri_core.io.nifti import read_sidecar, sidecar_of
from cfmri_core.progress import Progress, silent
from cfmri_server.identifiers import (
    IMAGE_EXTENSIONS,
    is_image_id,
    require_image_extension,
    require_image_id,
    require_label_tag,
)
from cfmri_server.problem import FieldError, NotFoundError


class ContainedDatastore(LocalDatastore):
    """A datastore whose ids, tags and extensions cannot leave its folder."""

    def __init__(self, folder: Path, *, auto_reload: bool, read_only: bool) -> None:
        self._lock = FileLock(folder / ".lock")  # the base class's file; a thread that holds it may enter again
        extensions = [f"*{extension}" for extension in IMAGE_EXTENSIONS]
        super().__init__(str(folder), extensions=extensions, auto_reload=auto_reload, read_only=read_only)

    def require_image(self, image_id: str) -> Path:
        """Return the file of an image, to be read through `on_disk`.

        Raises:
            FieldError: The text is not an image id.
            NotFoundError: There is no such image.
        """
        path = self.get_image_uri(require_image_id(image_id))
        if not path or not self._is_there(image_id, Path(path)):
            raise NotFoundError("There is no such image.", "GET /datastore/?output=all lists them.", field="image",
                                value=image_id)  # fmt: skip
        return Path(path)

    def on_disk(self, image: Path, progress: Progress = silent) -> Path:  # noqa: ARG002 - for those that must fetch it
        """Return an image's file, once it is there to be read."""
        return image

    def origin(self, image_id: str) -> dict[str, str]:  # noqa: ARG002 - for those that take results back
        """Return what a result notes of the image it was made from: nothing, as the id may be a patient's name."""
        return {}

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an image under an id, in this folder only; ``acquisition`` of its info becomes its sidecar.

        Raises:
            FieldError: The id or the kind of file is not accepted.
            AcquisitionError: An acquisition parameter is out of range.
        """
        require_image_id(image_id)
        extension = require_image_extension(image_filename)
        if self._sidecar(image_id) == Path(self._datastore_config_path):
            raise FieldError("This id is the datastore's own.", "Use another.", field="image", value=image_id)
        info = {**(image_info or {}), "ts": int(time.time()), "name": f"{image_id}{extension}"}
        known = _acquisition(info.pop("acquisition", None) or {})
        if known.known():  # before the image: one that is there has its sidecar
            write_text(self._sidecar(image_id), json_text(sidecar_of(known)))
        with self._listed() as images:
            _copy(Path(image_filename), Path(self._datastore.image_path()) / info["name"])
            images[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
        return image_id

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Return what is noted of an image; under ``acquisition`` how it was acquired, if its sidecar says so."""
        info: dict[str, Any] = super().get_image_info(image_id)
        try:
            known = read_sidecar(self._sidecar(image_id)).parameters.known() if info else {}
        except CfmriError:  # whoever works on the image is told; strategies look at all images
            known = {}
        return {**info, "acquisition": known} if known else info

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Note something of an image."""
        with self._listed() as images:
            self.require_image(image_id)
            images[image_id].image.info.update(info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label under an existing image's id, in this folder only."""
        self.require_image(image_id)
        extension = require_image_extension(label_filename)
        tag = require_label_tag(str(getattr(label_tag, "value", label_tag)))
        info = {**(label_info or {}), "ts": int(time.time()), "name": f"{image_id}{extension}"}
        with self._listed() as images:
            _copy(Path(label_filename), Path(self._datastore.label_path(tag)) / info["name"])
            images[image_id].labels[tag] = DataModel(info=info, ext=extension)
        return image_id

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the file of a label, or an empty text."""
        return str(super().get_label_uri(require_image_id(label_id), require_label_tag(label_tag)))

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Note something of a label."""
        with self._listed() as images:
            self._require_label(label_id, label_tag)
            images[label_id].labels[label_tag].info.update(info)

    def remove_image(self, image_id: str) -> None:
        """Remove an image, its labels and its sidecar."""
        file = self.require_image(image_id)
        super().remove_image(image_id)
        self._sidecar(image_id).unlink(missing_ok=True)
        if not self._is_there(image_id, file):
            with self._listed() as images:
                images.pop(image_id, None)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove one label of an image."""
        self._require_label(label_id, label_tag)
        super().remove_label(label_id, label_tag)
        with self._listed() as images:
            if label_id in images:
                images[label_id].labels.pop(label_tag, None)

    def write_dataset(self, file: BinaryIO, limit_cases: int | None = None) -> None:
        """Write a ZIP archive of the labelled images and their labels, or of the first ``limit_cases``.

        Raises:
            RequestError: No image has a final label.
        """
        cases = self.datalist()
        if not cases:
            raise RequestError("No image has a final label yet.", "Save one with PUT /datastore/label first.")
        with zipfile.ZipFile(file, "w") as archive:
            for case in cases[: limit_cases if limit_cases and limit_cases > 0 else None]:
                for kind, path in case.items():
                    archive.write(path, f"{kind}/{Path(path).name}")
            archive.writestr("metadata.json", self._datastore.model_dump_json(exclude={"base_path"}))

    def _require_label(self, label_id: str, label_tag: str) -> None:
        if not self.get_label_uri(label_id, label_tag):
            raise NotFoundError("There is no such label.", field="id", value=label_id)

    @contextmanager
    def _listed(self) -> Iterator[dict[str, ImageLabelModel]]:
        """Change the list as it is now: other processes change it too, and the watcher may pass over their events."""
        with self._lock:
            self._init_from_datastore_file()
            yield self._datastore.objects
            self._update_datastore_file()

    def _is_there(self, image_id: str, file: Path) -> bool:  # noqa: ARG002 - for those that know more than files
        """Whether there is an image of that id."""
        return file.is_file()

    def _remove_non_existing(self) -> int:
        """Forget images and labels whose files went; as the base class, but the list is never empty meanwhile."""
        self._init_from_datastore_file()
        removed = 0
        for image_id, entry in list(self._datastore.objects.items()):
            if not self._is_there(image_id, Path(self._datastore.image_path()) / f"{image_id}{entry.image.ext}"):
                del self._datastore.objects[image_id]
                removed += 1
            for tag, label in list(entry.labels.items()):
                if not (Path(self._datastore.label_path(tag)) / f"{image_id}{label.ext}").is_file():
                    del entry.labels[tag]
                    removed += 1
        return removed

    def _sidecar(self, image_id: str) -> Path:
        return Path(self._datastore.image_path()) / f"{image_id}.json"

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        listed = super()._list_files(path, patterns)
        return {name: file for name, file in listed.items() if is_image_id(self._to_id(name)[0])}

    def _reconcile_datastore(self) -> None:
        with self._lock:  # what another process writes between reading and writing would be lost
            super()._reconcile_datastore()

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Take up the list that another process wrote."""
        with self._lock:
            written = _stamp(Path(self._datastore_config_path))
            if written in (None, self._config_ts):
                return
            try:
                text = Path(self._datastore_config_path).read_text(encoding="utf-8")
                self._datastore = LocalDatastoreModel.model_validate_json(text)
            except ValueError:
                if throw_exception:
                    raise
                return
            self._datastore.base_path = self._datastore_path
            self._config_ts = written

    def _update_datastore_file(self, lock: bool = True) -> None:  # noqa: ARG002 - a parameter of the base class
        with self._lock:
            content = self._datastore.model_dump(exclude={"base_path"})
            write_text(Path(self._datastore_config_path), json.dumps(content, indent=2, default=str))
            self._config_ts = _stamp(Path(self._datastore_config_path))


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written anew, however soon; ``None`` where there is none."""
    if not file.is_file():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)


def _acquisition(given: object) -> AcquisitionParameters:
    if not isinstance(given, Mapping):
        raise FieldError("acquisition is not a JSON object.", field="acquisition", accepted="a JSON object")
    return AcquisitionParameters().replaced(given)
