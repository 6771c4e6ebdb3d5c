"""Saving images and labels over HTTP: MONAI Label's routes keep working, and nothing is left behind."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cfmri_server.state import StateFolder

from app.answers import refusal
from app.archive_server import wait_until
from cfmri_core.io.nifti import read_nifti, write_nifti


def everything(root: Path) -> set[Path]:
    return set(root.rglob("*"))


@pytest.fixture
def content(server) -> bytes:
    return (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()


@pytest.fixture
def nothing_is_left(server):
    """The folder of temporary files is as it was, when the test is over."""
    folder = StateFolder.of(server.studies).work / "tmp"
    before = everything(folder)
    yield
    wait_until(lambda: everything(folder) <= before, timeout_s=5)


def test_labels_go_through_monailabels_routes(server, tmp_path):
    label = tmp_path / "label.nii.gz"
    with (server.studies / ".monailabel/datastore/sub-0001.nii.gz").open("rb") as stream:
        content = stream.read()
    url = "/datastore/label?image=sub-0001&tag=draft"
    answer = server.http.put(url, files={"label": ("label.nii.gz", content)}, data={"params": "{}"})
    assert answer.json() == {"image": "sub-0001", "label": "sub-0001"}
    assert server.http.get("/datastore/label?label=sub-0001&tag=draft").content == content
    assert not label.exists()
    assert server.http.delete("/datastore/label?id=sub-0001&tag=draft").is_success


def test_images_go_through_monailabels_routes(server):
    content = (server.studies / ".monailabel/datastore/sub-0001.nii.gz").read_bytes()
    answer = server.http.put("/datastore/?image=uploaded", files={"file": ("u.nii.gz", content)})
    assert answer.json() == {"image": "uploaded"}
    assert server.http.get("/datastore/image?image=uploaded").content == content
    assert server.http.delete("/datastore/image?id=uploaded").is_success
    refusal(server.http.post("/infer/iap_predictor?image=uploaded"), 404)


def test_images_without_an_id_are_named_after_their_file(server, content):
    names = ["1.2.840.111", "1.2.840.222"]
    for name in names:
        answer = server.http.put("/datastore/image", files={"file": (f"{name}.nii.gz", content)})
        assert answer.json() == {"image": name}
    answer = server.http.put("/datastore/image", files={"file": (f"{names[0]}.nii.gz", content)})
    assert refusal(answer, 422)["value"] == names[0]
    for name in names:
        assert server.http.delete(f"/datastore/image?id={name}").is_success


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/datastore/image?image=..%2F..%2Foutside", "file"),
        ("/datastore/label?image=sub-0001&tag=..%2F..%2Foutside", "label"),
    ],
)
def test_uploads_cannot_leave_the_folder(server, path, field):
    before = everything(server.studies.parent)
    refusal(server.http.put(path, files={field: ("x.nii.gz", b"x")}), 422)

    def leftovers():
        return {path for path in everything(server.studies.parent) - before if "work" not in path.parts}

    wait_until(lambda: not leftovers(), timeout_s=3)  # the list may be being written for what a test before it did


@pytest.mark.parametrize(
    ("path", "field"), [("/datastore/image?image=a", "file"), ("/datastore/label?image=a", "label")]
)
def test_a_file_name_with_a_control_character_is_refused(server, path, field):
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="x\0.nii.gz"\r\n\r\n'
    answer = server.http.put(
        path, content=f"{head}x\r\n--b--\r\n".encode(), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    refusal(answer, 422)


def test_active_learning_offers_an_unlabelled_image_or_nothing(server):
    assert server.http.post("/activelearning/random", json={}).json() == {}
    refusal(server.http.post("/activelearning/unknown", json={}), 404)


def test_an_image_is_checked_by_checksums_there_are(server):
    assert server.http.head("/datastore/image?image=sub-0001").status_code == 200
    for check_sum, status in (("SHA256:00", 404), ("00", 404), ("CRC:00", 422), ("{}", 422)):
        answer = server.http.head("/datastore/image", params={"image": "sub-0001", "check_sum": check_sum})
        assert answer.status_code == status


@pytest.mark.usefixtures("nothing_is_left")
def test_refused_uploads_leave_nothing(server, content):
    refusal(server.http.put("/datastore/image?image=x1", files={"file": ("a.foo", content)}), 422)
    refusal(server.http.put("/datastore/image?image=..", files={"file": ("a.nii.gz", content)}), 422)
    refusal(server.http.put("/datastore/label?image=absent", files={"label": ("a.nii.gz", content)}), 404)
    refusal(server.http.put("/datastore/label?image=sub-0001", files={"label": ("a.exe", content)}), 422)


@pytest.mark.usefixtures("nothing_is_left")
def test_a_constant_image_is_refused_before_a_training_fails_on_it(server, tmp_path):
    volume = read_nifti(server.studies / ".monailabel/datastore/sub-0001.nii.gz")
    path = tmp_path / "constant.nii.gz"
    write_nifti(path, volume.with_voxels(np.full_like(volume.voxels, 7)), None)
    answer = server.http.put("/datastore/image?image=constant", files={"file": (path.name, path.read_bytes())})
    assert "constant" in refusal(answer, 422)["message"]
    assert not list(server.studies.rglob("constant*"))


def test_no_bad_label_and_no_bad_info_is_accepted(server, content):
    kept = server.http.get("/datastore/label?label=sub-0002&tag=final").content
    for label in (b"garbage", content):
        answer = server.http.put("/datastore/label?image=sub-0002", files={"label": ("l.nii.gz", label)})
        assert str(server.studies) not in str(refusal(answer, 422))
    refusal(server.http.put("/datastore/image?image=bad", files={"file": ("a.nii.gz", b"garbage")}), 422)
    refusal(server.http.put("/datastore/image/info?image=sub-0002", data={"info": '{"acquisition": 5}'}), 422)
    assert server.http.get("/datastore/label?label=sub-0002&tag=final").content == kept
    assert server.http.post("/activelearning/random", json={}).json() == {}


@pytest.mark.usefixtures("nothing_is_left")
def test_a_long_file_name_is_no_failure(server, content):
    name = f"a.{'b' * 300}.nii.gz"
    assert server.http.put("/datastore/image?image=long", files={"file": (name, content)}).is_success
    assert server.http.delete("/datastore/image?id=long").is_success
    assert refusal(server.http.put("/datastore/image", files={"file": (name, content)}), 422)["field"] == "image"


@pytest.mark.usefixtures("nothing_is_left")
def test_the_dataset_is_sent_and_gone(server):
    answer = server.http.get("/datastore/dataset?limit_cases=1")
    assert "dataset.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["image/sub-0001.nii.gz", "label/sub-0001.nii.gz", "metadata.json"]
