"""MONAI Label's local datastore, kept inside its folder and written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore

from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_file, write_text
from cfmri_core.progress import Progress, silent
from cfmri_server.identifiers import (
    IMAGE_EXTENSIONS,
    is_image_id,
    require_image_extension,
    require_image_id,
    require_label_tag,
)
from cfmri_server.problem import NotFoundError


class ContainedDatastore(LocalDatastore):
    """A datastore whose ids, tags and extensions cannot leave its folder."""

    def __init__(self, folder: Path, *, auto_reload: bool, read_only: bool) -> None:
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

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an image under an id, in this folder only."""
        require_image_id(image_id)
        extension = require_image_extension(image_filename)
        info = {**(image_info or {}), "ts": int(time.time()), "name": f"{image_id}{extension}"}
        with FileLock(self._lock_file):
            _copy(Path(image_filename), Path(self._datastore.image_path()) / info["name"])
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=extension))
            self._update_datastore_file(lock=False)
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label under an existing image's id, in this folder only."""
        self.require_image(image_id)
        extension = require_image_extension(label_filename)
        tag = require_label_tag(str(getattr(label_tag, "value", label_tag)))
        info = {**(label_info or {}), "ts": int(time.time()), "name": f"{image_id}{extension}"}
        with FileLock(self._lock_file):
            _copy(Path(label_filename), Path(self._datastore.label_path(tag)) / info["name"])
            self._datastore.objects[image_id].labels[tag] = DataModel(info=info, ext=extension)
            self._update_datastore_file(lock=False)
        return image_id

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Return the file of a label, or an empty text."""
        return str(super().get_label_uri(require_image_id(label_id), require_label_tag(label_tag)))

    def remove_image(self, image_id: str) -> None:
        """Remove an image, its labels and its sidecar."""
        image = self.require_image(image_id)
        super().remove_image(image_id)
        image.with_name(f"{image_id}.json").unlink(missing_ok=True)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove one label of an image."""
        if not self.get_label_uri(label_id, label_tag):
            raise NotFoundError("There is no such label.", field="id", value=label_id)
        super().remove_label(label_id, label_tag)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Return a ZIP archive of the labelled images."""
        if not self.datalist():
            raise RequestError("No image has a final label yet.", "Save one with PUT /datastore/label first.")
        return str(super().get_dataset_archive(limit_cases))

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

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        listed = super()._list_files(path, patterns)
        return {name: file for name, file in listed.items() if is_image_id(self._to_id(name)[0])}

    def _update_datastore_file(self, lock: bool = True) -> None:
        if lock:
            with FileLock(self._lock_file):
                self._update_datastore_file(lock=False)
            return
        content = self._datastore.model_dump(exclude={"base_path"})
        write_text(Path(self._datastore_config_path), json.dumps(content, indent=2, default=str))
        self._config_ts = os.stat(self._datastore_config_path).st_mtime  # noqa: PTH116  (the base class compares it)


def _copy(source: Path, target: Path) -> None:
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)
