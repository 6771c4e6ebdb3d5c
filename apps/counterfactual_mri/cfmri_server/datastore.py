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
from cfmri_core.io.nifti import read_sidecar, sidecar_of, write_nifti
from cfmri_core.progress import Progress, silent
from cfmri_core.slices import IntensityScale
from cfmri_core.volume import Volume
from cfmri_server.identifiers import (
    IMAGE_EXTENSIONS,
    KEPT_EXTENSION,
    is_image_id,
    require_image_extension,
    require_image_id,
    require_label_tag,
)
from cfmri_server.images import read_image
from cfmri_server.labels import read_label
from cfmri_server.problem import FieldError, NotFoundError, nameless
from cfmri_server.studies import note_deleted


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

    def patient_of(self, image_id: str) -> str:  # noqa: ARG002 - for those that know more than names
        """Return whose image it is; an empty text where its name alone tells."""
        return ""

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store an image under a new id, in this folder only; ``acquisition`` of its info becomes its sidecar.

        Raises:
            FieldError: The id or the kind of file is not accepted, or there is something of that id.
            AcquisitionError: An acquisition parameter is out of range.
            DicomReadError, GeometryError, TooLargeError: It is not one 3D image that can be read, or it is constant.
        """
        require_image_id(image_id)
        require_image_extension(image_filename)
        info = {**(image_info or {}), "ts": int(time.time()), "name": f"{image_id}{KEPT_EXTENSION}"}
        known = _acquisition(info.pop("acquisition", None) or {})
        source = Path(image_filename)
        with nameless(source.parent):
            volume = read_image(source).volume
            IntensityScale.of(volume.voxels)  # a constant image would fail each training it gets into
        kept, sidecar = Path(self._datastore.image_path()) / info["name"], self._sidecar(image_id)
        with self._listed() as images:
            if self._is_there(image_id, kept) or self._files_of(image_id) or self._is_own(sidecar):
                hint = "Delete that image first, or use another id."
                raise FieldError("There is something of this id already.", hint, field="image", value=image_id)
            try:
                if known.known():  # before the image: one that is there has its sidecar
                    write_text(sidecar, json_text(sidecar_of(known)))
                _keep(source, volume, kept)
            except CfmriError:
                sidecar.unlink(missing_ok=True)
                raise
            images[image_id] = ImageLabelModel(image=DataModel(info=info, ext=KEPT_EXTENSION))
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
        """Note something of an image.

        Raises:
            NotFoundError: There is no such image.
            FieldError, AcquisitionError: Its ``acquisition`` is none.
        """
        if "acquisition" in info:
            info = {**info, "acquisition": _acquisition(info["acquisition"]).known()}
        with self._listed() as images:
            self.require_image(image_id)
            images[image_id].image.info.update(info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label under an existing image's id, in this folder only, in place of an earlier one.

        Raises:
            FieldError: The id, the tag or the kind of file is not accepted.
            NotFoundError: There is no such image.
            CfmriError: It is no label of that image and tag; see `read_label`.
        """
        image = self.require_image(image_id)
        require_image_extension(label_filename)
        tag = require_label_tag(str(getattr(label_tag, "value", label_tag)))
        source = Path(label_filename)
        label = read_label(source, self.on_disk(image), tag)
        info = {**(label_info or {}), "ts": int(time.time()), "name": f"{image_id}{KEPT_EXTENSION}"}
        self._pass_on(image_id, tag, label, info)
        with self._listed() as images:
            self.require_image(image_id)  # it may have been deleted meanwhile
            kept = Path(self._datastore.label_path(tag)) / info["name"]
            _keep(source, label, kept)
            for earlier in self._label_files(image_id, tag):
                if earlier != kept:
                    earlier.unlink()
            images[image_id].labels[tag] = DataModel(info=info, ext=KEPT_EXTENSION)
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
        """Remove an image, its labels and its sidecar; it does not come back when the studies are served anew."""
        with self._listed() as images:
            file = self.require_image(image_id)
            note_deleted(Path(self._datastore_path), image_id)
            for each in self._files_of(image_id):
                each.unlink()
            if self._is_there(image_id, file):
                images[image_id].labels.clear()
            else:
                del images[image_id]

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove one label of an image."""
        with self._listed() as images:
            self._require_label(label_id, label_tag)
            for each in self._label_files(label_id, label_tag):
                each.unlink()
            del images[label_id].labels[label_tag]

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

    def _pass_on(self, image_id: str, tag: str, label: Volume, info: Mapping[str, Any]) -> None:
        """Take a label that is about to be stored; for those that keep it elsewhere as well."""

    def _files_of(self, image_id: str) -> list[Path]:
        """Return every file of an id: images in each format, the sidecar, labels of each tag."""
        images, labels = Path(self._datastore.image_path()), Path(self._datastore.label_path(None))
        found = [*_in_each_format(images, image_id), self._sidecar(image_id)]
        found += [file for tag in labels.iterdir() for file in _in_each_format(tag, image_id)]
        return [file for file in found if file.is_file() and not self._is_own(file)]

    def _label_files(self, label_id: str, tag: str) -> list[Path]:
        return [file for file in _in_each_format(Path(self._datastore.label_path(tag)), label_id) if file.is_file()]

    def _is_own(self, file: Path) -> bool:
        return file == Path(self._datastore_config_path)

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

    def _to_id(self, file: str) -> tuple[str, str]:
        """Take a file's name apart at its extension; the base class takes that out wherever it finds it."""
        extension = next((ending for ending in IMAGE_EXTENSIONS if file.endswith(ending)), "")
        return file.removesuffix(extension), extension

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


def _in_each_format(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}{extension}" for extension in IMAGE_EXTENSIONS]


def _keep(source: Path, volume: Volume, target: Path) -> None:
    """Write an image in the one format that is kept: as it came if it is in that, else converted."""
    if require_image_extension(source.name) != KEPT_EXTENSION:
        write_nifti(target, volume, None)
        return
    with atomic_file(target) as partial:
        shutil.copyfile(source, partial)


def _acquisition(given: object) -> AcquisitionParameters:
    if not isinstance(given, Mapping):
        raise FieldError("acquisition is not a JSON object.", field="acquisition", accepted="a JSON object")
    return AcquisitionParameters().replaced(given)
