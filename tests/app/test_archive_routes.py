"""A server of a real Orthanc over HTTP: its series are the images, results go back into it."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from orthanc import Orthanc, running_orthanc

from app.answers import form, parts, refusal, wait_for_job
from app.archive_server import ArchiveServer, archive_server, wait_until
from cfmri_core.dicom.read import find_series, read_series
from cfmri_core.dicom.web import DicomWeb
from cfmri_core.dicom.web_connection import Access


@pytest.fixture(scope="module")
def pacs(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc with the series of the simulated studies."""
    for orthanc in running_orthanc(tmp_path_factory.mktemp("orthanc")):
        store(orthanc, find_series(studies))
        yield orthanc


@pytest.fixture(scope="module")
def archived(pacs: Orthanc, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchiveServer]:
    with archive_server(pacs.url, tmp_path_factory.mktemp("served") / "state", models) as server:
        yield server


@pytest.fixture
def image(archived) -> str:
    return min(archived.images())


def store(orthanc: Orthanc, folders: list[Path]) -> None:
    DicomWeb(Access(orthanc.url)).store([file for folder in folders for file in sorted(folder.glob("*.dcm"))])


def stored(archived: ArchiveServer, upload: str) -> None:
    wait_until(lambda: upload in [entry["id"] for entry in archived.uploads("stored")])


def series_of(pacs: Orthanc, uid: str) -> dict:
    (found,) = [entry for entry in pacs.series() if entry["SeriesInstanceUID"] == uid]
    return found


def test_series_are_listed_before_they_are_fetched(archived, studies):
    folders = [folder for folder in find_series(studies) if ".monailabel" not in folder.parts]
    sources = {read_series(folder).headers[0].SeriesInstanceUID: folder for folder in folders}
    listed = archived.images()
    assert set(listed) == set(sources)
    for uid, folder in sources.items():
        assert listed[uid]["image"]["info"]["acquisition"] == read_series(folder).acquisition.parameters.known()
    assert archived.http.get("/archive/").json()["series"] == {"listed": len(sources), "fetched": 0, "unusable": 0}


def test_an_image_is_fetched_on_first_use(archived, image, studies, tmp_path):
    answer = archived.http.get(f"/datastore/image?image={image}")
    (tmp_path / "image.nii.gz").write_bytes(answer.content)
    (source,) = [folder for folder in find_series(studies) if read_series(folder).headers[0].SeriesInstanceUID == image]
    assert np.array_equal(nibabel.load(tmp_path / "image.nii.gz").get_fdata(), read_series(source).volume.voxels)
    assert archived.http.head(f"/datastore/image?image={image}").is_success
    assert archived.http.post(f"/infer/iap_predictor?image={image}", data=form()).is_success
    refusal(archived.http.get("/datastore/image?image=1.2.3"), 404)


def test_a_new_series_appears_and_our_own_does_not(archived, pacs, studies, tmp_path):
    from phantoms import affine_of, distinct_voxels, write_series

    before = archived.images()
    write_series(tmp_path / "s", distinct_voxels(), affine_of(np.eye(3)))
    store(pacs, [tmp_path / "s"])
    wait_until(lambda: set(archived.images()) - set(before) == {"1.2.3.4.5.6"})


def test_what_is_no_volume_is_refused_and_not_offered_again(archived, pacs, tmp_path):
    from phantoms import affine_of, save, slice_dataset

    for number in (1, 2):  # two echoes at one place
        uids = {"SeriesInstanceUID": "1.2.9", "SOPInstanceUID": f"1.2.9.{number}", "EchoTime": str(number)}
        save(
            tmp_path / "s" / f"{number}.dcm",
            slice_dataset(np.zeros((4, 4, 1), np.uint16), affine_of(np.eye(3)), 0, uids),
        )
    store(pacs, [tmp_path / "s"])
    assert "1.2.9" in wait_until(lambda: "1.2.9" in archived.images() and archived.images())
    problem = refusal(archived.http.get("/datastore/image?image=1.2.9"), 422)
    assert "multi-echo" in problem["message"]
    assert str(archived.state) not in problem["message"]
    wait_until(lambda: "1.2.9" not in archived.images())
    assert archived.http.get("/archive/").json()["series"]["unusable"] == 1


def test_a_counterfactual_is_stored_once(archived, pacs, image):
    ids = []
    for _ in range(2):
        job = archived.http.post(f"/jobs/counterfactual?image={image}", data=form(echo_time_ms=2.0, steps=1)).json()[
            "id"
        ]
        wait_for_job(archived.http, job, "done")
        answer = archived.http.post(f"/jobs/{job}/store")
        assert answer.status_code == 202
        ids.append(answer.json()["id"])
        stored(archived, ids[-1])
    assert ids[0] == ids[1]
    assert series_of(pacs, ids[0])["SeriesDescription"].startswith("SYNTHETIC CF TE=2ms")
    assert set(pacs.content().values()) == {1}
    header = next(pydicom.dcmread(BytesIO(pacs.file(uid))) for uid in pacs.content() if is_in(pacs, uid, ids[0]))
    assert header[0x0008001C].value == "YES"
    assert list(header.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    archived.http.post("/archive/refresh")
    assert ids[0] not in archived.images()


def is_in(pacs: Orthanc, uid: str, series_uid: str) -> bool:
    return str(pydicom.dcmread(BytesIO(pacs.file(uid)), stop_before_pixels=True).SeriesInstanceUID) == series_uid


def test_a_final_label_becomes_one_segmentation(archived, pacs, image):
    labels = parts(archived.http.post(f"/infer/tissue_segmenter?image={image}", data=form()))[1]
    before = len(pacs.series())
    url = f"/datastore/label?image={image}&tag="
    for tag in ("draft", "final", "final"):
        assert archived.http.put(url + tag, files={"label": ("l.nii.gz", labels)}).is_success
    wait_until(lambda: archived.uploads("stored") and not archived.uploads("pending"))
    (segmentation,) = [entry for entry in pacs.series() if entry["Modality"] == "SEG"]
    assert len(pacs.series()) == before + 1
    assert "and a reader" in segmentation["SeriesDescription"]
    assert archived.http.get(f"/datastore/label?label={image}&tag=final").content == labels


def test_labels_that_cannot_be_stored_are_not_saved(archived, pacs, image, tmp_path):
    other = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([3, 3, 3, 1]))
    nibabel.save(other, tmp_path / "l.nii.gz")
    files = {"label": ("l.nii.gz", (tmp_path / "l.nii.gz").read_bytes())}
    refusal(archived.http.put(f"/datastore/label?image={image}&tag=final", files=files), 422)
    assert not archived.uploads("pending", "failed")


def test_what_cannot_be_stored_is_said_so(archived, server, image, tmp_path):
    refusal(archived.http.post("/jobs/absent/store"), 404)
    job = archived.http.post(f"/jobs/iap_predictor?image={image}", data=form()).json()["id"]
    wait_for_job(archived.http, job, "done")
    refusal(archived.http.post(f"/jobs/{job}/store"), 422)
    content = archived.http.get(f"/datastore/image?image={image}").content
    files = {"file": ("x.nii.gz", content)}
    job = archived.http.post("/jobs/tissue_segmenter", files=files, data=form()).json()["id"]
    wait_for_job(archived.http, job, "done")
    refusal(archived.http.post(f"/jobs/{job}/store"), 422)
    refusal(server.http.get("/archive/"), 404)


def test_nothing_of_patients_is_logged(archived, pacs, image):
    logged = archived.output.read_text() + (archived.state / ".monailabel/logs/server.log").read_text()
    assert "Stored a" in logged
    for uid in (image, *pacs.content(), "SIMULATED", "SENTINEL"):
        assert uid not in logged
    assert (archived.state.stat().st_mode & 0o777) == 0o700
