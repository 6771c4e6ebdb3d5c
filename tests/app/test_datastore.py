"""The datastore stays inside its folder and keeps MONAI Label's routes working."""

from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel
import numpy as np
import pytest
from cfmri_server import datastore as datastore_module
from cfmri_server.datastore import ContainedDatastore
from cfmri_server.images import write_image
from cfmri_server.problem import FieldError, NotFoundError

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import CfmriError, RequestError, ResourceError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.volume import Volume


def voxels(value: int) -> np.ndarray:
    """All but one of that value: an image must not be constant."""
    made = np.full((2, 2, 2), value, np.uint8)
    made[0, 0, 0] = 0 if value else 1
    return made


def write_nifti(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels(value), np.eye(4)), path)
    return path


def write_nrrd(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, Volume(voxels(value), np.eye(4)))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    write_nifti(tmp_path / "studies" / "scan-1.nii.gz")
    return tmp_path / "studies"


@pytest.fixture
def datastore(folder) -> ContainedDatastore:
    return ContainedDatastore(folder, auto_reload=False, read_only=False)


def everything(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@pytest.mark.parametrize("name", ["../outside", "..", "/tmp/outside", "a/b", "x" * 129, "a\0b", ""])
def test_images_are_stored_inside_only(datastore, folder, tmp_path, name):
    upload = write_nifti(tmp_path / "upload" / "u.nii.gz")
    before = everything(tmp_path)
    with pytest.raises(FieldError):
        datastore.add_image(name, str(upload), {})
    assert everything(tmp_path) == before


@pytest.mark.parametrize("tag", ["../../x", "..", "a/b", ""])
def test_labels_are_stored_inside_only(datastore, tmp_path, tag):
    upload = write_nifti(tmp_path / "upload" / "u.nii.gz")
    before = everything(tmp_path)
    with pytest.raises(FieldError):
        datastore.save_label("scan-1", str(upload), tag, {})
    with pytest.raises(NotFoundError):
        datastore.save_label("scan-2", str(upload), "final", {})
    assert everything(tmp_path) == before


def test_only_images_are_stored(datastore, tmp_path):
    upload = tmp_path / "u.py"
    upload.write_text("print()")
    with pytest.raises(FieldError):
        datastore.add_image("scan-2", str(upload), {})


def test_files_with_other_names_are_not_listed(folder):
    write_nifti(folder / "Doe John.nii.gz")
    datastore = ContainedDatastore(folder, auto_reload=False, read_only=False)
    assert datastore.list_images() == ["scan-1"]


def test_a_stored_image_is_listed_and_survives_a_restart(datastore, folder, tmp_path):
    datastore.add_image("scan-2", str(write_nifti(tmp_path / "u" / "u.nii.gz")), {})
    datastore.save_label("scan-2", str(write_nifti(tmp_path / "u" / "l.nii.gz")), "final", {"by": "me"})
    again = ContainedDatastore(folder, auto_reload=False, read_only=False)
    assert sorted(again.list_images()) == ["scan-1", "scan-2"]
    assert again.get_label_info("scan-2", "final")["by"] == "me"
    json.loads((folder / "datastore_v2.json").read_text())
    again.remove_image("scan-2")
    assert again.list_images() == ["scan-1"]


@pytest.mark.parametrize(
    ("write", "extension"), [(write_nrrd, ".nrrd"), (write_nifti, ".nii"), (write_nifti, ".nii.gz")]
)
def test_training_sees_what_was_stored_whatever_its_format(datastore, folder, tmp_path, write, extension):
    datastore.save_label("scan-1", str(write_nifti(tmp_path / "u" / "l.nii.gz", 2)), "final", {})
    datastore.save_label("scan-1", str(write(tmp_path / "u" / f"l{extension}", 1)), "final", {})
    datastore.add_image("scan-2", str(write(tmp_path / "u" / f"i{extension}", 7)), {})
    first, second = list_studies(folder)
    assert np.array_equal(read_nifti(first.labels_path).voxels, voxels(1))
    assert first.labels_path == Path(datastore.get_label_uri("scan-1", "final"))
    assert np.array_equal(read_nifti(second.scan_path).voxels, voxels(7))
    assert read_nifti(first.labels_path).voxels.dtype == np.uint8


def test_what_is_removed_is_removed_in_every_format(folder):
    for extension, write in ((".nii", write_nifti), (".nii.gz", write_nifti), (".nrrd", write_nrrd)):
        write(folder / f"scan-1{extension}")
        write(folder / "labels" / "final" / f"scan-1{extension}")
        write(folder / "labels" / "lesion" / f"scan-1{extension}")
    (folder / "scan-1.json").write_text("{}")
    datastore = ContainedDatastore(folder, auto_reload=False, read_only=False)
    datastore.remove_label("scan-1", "final")
    assert list((folder / "labels" / "final").iterdir()) == []
    datastore.refresh()
    assert set(datastore.get_labels_by_image_id("scan-1")) == {"lesion"}
    datastore.remove_image("scan-1")
    datastore.refresh()
    assert datastore.list_images() == []
    assert list(folder.rglob("scan-1*")) == []


def test_an_image_that_is_there_is_not_overwritten(datastore, folder, tmp_path):
    datastore.save_label("scan-1", str(write_nifti(tmp_path / "u" / "l.nii.gz")), "final", {})
    (folder / "scan-1.json").write_text('{"EchoTime": 0.002}')
    before = {path: path.read_bytes() for path in folder.rglob("scan-1*")}
    for write, extension in ((write_nifti, ".nii.gz"), (write_nrrd, ".nrrd")):
        with pytest.raises(FieldError, match="already"):
            datastore.add_image("scan-1", str(write(tmp_path / "u" / f"i{extension}", 9)), {})
    assert {path: path.read_bytes() for path in folder.rglob("scan-1*")} == before
    datastore.remove_image("scan-1")
    datastore.add_image("scan-1", str(write_nifti(tmp_path / "u" / "i.nii.gz", 9)), {})
    assert datastore.get_labels_by_image_id("scan-1") == {}
    assert "acquisition" not in datastore.get_image_info("scan-1")


def test_a_full_disk_leaves_the_id_free(datastore, tmp_path, monkeypatch):
    def full(*_):
        raise ResourceError("The disk is full.")

    upload, info = str(write_nifti(tmp_path / "u" / "i.nii.gz")), {"acquisition": {"echo_time_ms": 2.4}}
    monkeypatch.setattr(datastore_module, "_keep", full)
    with pytest.raises(ResourceError):
        datastore.add_image("scan-2", upload, info)
    monkeypatch.undo()
    assert datastore.add_image("scan-2", upload, info) == "scan-2"


def test_an_image_whose_file_went_leaves_its_id_free(datastore, folder, tmp_path):
    (folder / "scan-1.nii.gz").unlink()
    assert datastore.add_image("scan-1", str(write_nifti(tmp_path / "u" / "i.nii.gz")), {}) == "scan-1"


def test_the_leftovers_of_another_image_do_not_become_a_new_one_s(datastore, folder, tmp_path):
    upload = str(write_nifti(tmp_path / "u" / "i.nii.gz"))
    for leftover in ("participants.json", "labels/final/participants.nii.gz"):
        (folder / leftover).write_text("{}")
        with pytest.raises(FieldError, match="already"):
            datastore.add_image("participants", upload, {"acquisition": {"echo_time_ms": 2.4}})
        assert (folder / leftover).read_text() == "{}"
        (folder / leftover).unlink()


@pytest.mark.parametrize("name", ["1.2.840.111", "a.nii.b", "x.nrrd.y"])
def test_an_id_is_the_whole_name_without_its_extension(folder, name):
    write_nifti(folder / f"{name}.nii.gz")
    assert name in ContainedDatastore(folder, auto_reload=False, read_only=False).list_images()


def test_what_is_removed_leaves_the_list_whatever_the_watcher_sees(folder, tmp_path):
    datastore = ContainedDatastore(folder, auto_reload=True, read_only=False)
    try:
        datastore.save_label("scan-1", str(write_nifti(tmp_path / "u" / "l.nii.gz")), "final", {})
        datastore._ignore_event_count = 99  # it passes over events that it takes for its own
        datastore.remove_label("scan-1", "final")
        assert datastore.get_labels_by_image_id("scan-1") == {}
        datastore.remove_image("scan-1")
        assert datastore.list_images() == []
    finally:
        datastore._observer.stop()


def test_a_stored_image_keeps_how_it_was_acquired(datastore, folder, tmp_path):
    upload = str(write_nifti(tmp_path / "u" / "u.nii.gz"))
    datastore.add_image("scan-2", upload, {"acquisition": {"echo_time_ms": 2.4}})
    assert datastore.get_image_info("scan-2")["acquisition"] == {"echo_time_ms": 2.4}
    assert json.loads((folder / "scan-2.json").read_text())["EchoTime"] == pytest.approx(0.0024)
    assert "acquisition" not in datastore.get_image_info("scan-1")
    (folder / "scan-1.json").write_text("[]")
    assert "acquisition" not in datastore.get_image_info("scan-1")
    datastore.remove_image("scan-2")
    assert not (folder / "scan-2.json").exists()


@pytest.mark.parametrize("acquisition", [{"echo_time_ms": -1}, {"patient": "Doe"}, [1], "2.4"])
def test_an_impossible_acquisition_stores_nothing(datastore, tmp_path, acquisition):
    upload = str(write_nifti(tmp_path / "u" / "u.nii.gz"))
    before = everything(tmp_path)
    with pytest.raises(CfmriError):
        datastore.add_image("scan-2", upload, {"acquisition": acquisition})
    assert everything(tmp_path) == before


@pytest.mark.parametrize("content", [b"garbage", b"", b"\x1f\x8b\x08garbage"])
def test_what_is_no_image_is_not_stored(datastore, folder, tmp_path, content):
    datastore.save_label("scan-1", str(write_nifti(tmp_path / "u" / "l.nii.gz", 1)), "final", {})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (tmp_path / "u" / "bad.nii.gz").write_bytes(content)
    for name in ("scan-1", "scan-2"):
        with pytest.raises(CfmriError) as refused:
            datastore.add_image(name, str(tmp_path / "u" / "bad.nii.gz"), {"acquisition": {"echo_time_ms": 2.4}})
        assert str(tmp_path) not in str(refused.value)
    with pytest.raises(CfmriError):
        datastore.save_label("scan-1", str(tmp_path / "u" / "bad.nii.gz"), "final", {})
    with pytest.raises(FieldError):
        datastore.save_label("scan-1", str(write_nifti(tmp_path / "u" / "l.nii.gz", 77)), "final", {})
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "acquisition", [5, None, [1], "x", {"echo_time_ms": [1]}, {"echo_time_ms": -1}, {"patient": 1}]
)
def test_an_impossible_acquisition_is_not_noted(datastore, acquisition):
    with pytest.raises(CfmriError):
        datastore.update_image_info("scan-1", {"acquisition": acquisition, "note": 1})
    assert "note" not in datastore.get_image_info("scan-1")
    datastore.update_image_info("scan-1", {"acquisition": {"echo_time_ms": 2.4}})
    assert datastore.get_image_info("scan-1")["acquisition"] == {"echo_time_ms": 2.4}


def test_no_image_takes_the_name_of_the_datastore_s_own_file(datastore, folder, tmp_path):
    before = (folder / "datastore_v2.json").read_text()
    with pytest.raises(FieldError):
        datastore.add_image(
            "datastore_v2", str(write_nifti(tmp_path / "u" / "u.nii.gz")), {"acquisition": {"echo_time_ms": 2.4}}
        )
    assert (folder / "datastore_v2.json").read_text() == before


@pytest.fixture
def other_process(folder, datastore) -> ContainedDatastore:
    """The same folder as a batch process knows it; what is changed from here on, it has not seen."""
    return ContainedDatastore(folder, auto_reload=False, read_only=False)


def test_what_another_process_wrote_meanwhile_is_kept(datastore, other_process, folder, tmp_path):
    label = str(write_nifti(tmp_path / "u" / "l.nii.gz"))
    datastore.save_label("scan-1", label, "final", {"by": "ann"})
    datastore.update_image_info("scan-1", {"note": "important"})
    datastore.add_image("scan-2", label, {"site": "X"})
    other_process.save_label("scan-1", label, "original", {"model": "m"})
    datastore.update_label_info("scan-1", "final", {"checked": True})
    other_process.update_image_info("scan-1", {"more": 1})
    now = ContainedDatastore(folder, auto_reload=False, read_only=False)
    assert now.get_label_info("scan-1", "final") | {"by": "ann", "checked": True} == now.get_label_info(
        "scan-1", "final"
    )
    assert now.get_label_info("scan-1", "original")["model"] == "m"
    info = now.get_image_info("scan-1")
    assert (info["note"], info["more"], now.get_image_info("scan-2")["site"]) == ("important", 1, "X")


def test_two_processes_that_write_at_once_lose_nothing(datastore, other_process, folder):
    def write(store, name):
        for number in range(40):
            store.update_image_info("scan-1", {f"{name}{number}": number})
            store.refresh()

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(write, datastore, "a"), pool.submit(write, other_process, "b")]:
            done.result()
    info = ContainedDatastore(folder, auto_reload=False, read_only=False).get_image_info("scan-1")
    assert {f"{name}{number}" for name in "ab" for number in range(40)} <= set(info)


def test_what_is_not_there_has_no_info(datastore):
    with pytest.raises(NotFoundError):
        datastore.update_image_info("absent", {"x": 1})
    with pytest.raises(NotFoundError):
        datastore.update_label_info("scan-1", "final", {"x": 1})


def test_an_archive_needs_labels(datastore):
    with pytest.raises(RequestError):
        datastore.write_dataset(io.BytesIO())


def test_an_archive_holds_labelled_images_with_their_labels(datastore, folder, tmp_path):
    label = str(write_nifti(tmp_path / "u" / "l.nii.gz"))
    datastore.add_image("scan-2", label, {})
    for image in ("scan-1", "scan-2"):
        datastore.save_label(image, label, "final", {})
    for limit, count in ((None, 2), (1, 1), (0, 2), (-1, 2), (9, 2)):
        datastore.write_dataset(file := io.BytesIO(), limit)
        images = [f"{kind}/scan-{number}.nii.gz" for number in range(1, count + 1) for kind in ("image", "label")]
        with zipfile.ZipFile(file) as archive:
            assert sorted(archive.namelist()) == sorted([*images, "metadata.json"])
            assert archive.read("image/scan-1.nii.gz") == (folder / "scan-1.nii.gz").read_bytes()
