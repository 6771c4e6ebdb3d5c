"""The state of an archive's server: whose it is, what it lists, what it fetched."""

from __future__ import annotations

import numpy as np
import pytest
from cfmri_server.archive import Archive, archive_of, archive_state
from cfmri_server.archive_datastore import ArchiveDatastore
from phantoms import affine_of, distinct_voxels, save, slice_dataset, write_series

from app.archive_server import wait_until
from cfmri_core.dicom.web_connection import Access
from cfmri_core.errors import RemoteError, RequestError
from cfmri_core.io.nifti import read_nifti

UID = "1.2.3.4.5.6"
VOXELS, AFFINE = distinct_voxels(), affine_of(np.eye(3))


@pytest.fixture
def filled(orthanc, tmp_path):
    archive = Archive(Access(orthanc.url, pause_s=0.01), tmp_path / "state", {})
    archive.web.store(sorted(write_series(tmp_path / "s", VOXELS, AFFINE).iterdir()))
    archive.refresh()
    return archive


def test_a_state_belongs_to_one_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    folder = archive_state("http://127.0.0.1:8042/dicom-web", None, {"StudyDate": "2026"})
    assert folder.parent == tmp_path / "home" / "cfmri"
    assert archive_state("http://127.0.0.1:8042/dicom-web/", None, {}) == folder
    assert archive_of(folder).access.name == "127.0.0.1:8042"
    assert archive_of(tmp_path) is None
    with pytest.raises(RequestError, match="something else"):
        archive_state("http://127.0.0.1:8043/dicom-web", folder, {})
    with pytest.raises(RequestError, match="something else"):
        archive_state("http://127.0.0.1:8042/dicom-web", tmp_path, {})


def test_it_starts_without_an_archive_that_it_knows(orthanc, filled, tmp_path):
    orthanc.kill()
    again = Archive(Access(orthanc.url, attempts=1), tmp_path / "state", {})
    again.open()
    again.close()
    assert set(again.series.sources()) == {UID}
    assert again.status()["error"]["message"].startswith("Nothing answers")
    with pytest.raises(RemoteError):
        Archive(Access(orthanc.url, attempts=1), tmp_path / "new", {}).open()


def test_a_series_that_grew_is_fetched_anew(orthanc, filled, tmp_path):
    datastore = ArchiveDatastore(tmp_path / "datastore", filled, auto_reload=False, read_only=False)
    assert datastore.list_images() == [UID]
    image = datastore.require_image(UID)
    assert not image.is_file()
    assert read_nifti(datastore.on_disk(image)).shape == (7, 5, 4)
    more = slice_dataset(np.dstack([VOXELS, VOXELS]), AFFINE, 4)
    filled.web.store([save(tmp_path / "s" / "more.dcm", more)])
    filled.refresh()
    assert not image.is_file()
    assert read_nifti(datastore.on_disk(image)).shape == (7, 5, 5)
    datastore.remove_image(UID)
    assert datastore.list_images() == [UID]
    assert not filled.is_fetched(UID)


@pytest.mark.flaky(reruns=2)
def test_what_waits_is_sent_as_soon_as_the_archive_is_back(orthanc, filled, tmp_path):
    orthanc.kill()
    again = Archive(Access(orthanc.url, attempts=1), tmp_path / "state", {})
    again.open()
    again.outbox.add("segmentation", UID, lambda folder: write_series(folder, VOXELS, AFFINE))
    wait_until(lambda: again.outbox.uploads()[0]["attempts"] >= 3)  # the next try is seconds away
    orthanc.start()
    again.refresh()
    wait_until(lambda: again.outbox.uploads()[0]["state"] == "stored", timeout_s=3)
    again.close()


def test_what_left_the_archive_leaves_the_list(orthanc, filled, tmp_path):
    import httpx

    datastore = ArchiveDatastore(tmp_path / "datastore", filled, auto_reload=False, read_only=False)
    for series in httpx.get(f"{orthanc.root}/series", trust_env=False).json():
        httpx.delete(f"{orthanc.root}/series/{series}", trust_env=False)
    filled.refresh()
    assert datastore.list_images() == []


def test_another_process_reads_the_same_list(orthanc, filled, tmp_path):
    other = Archive(filled.access, tmp_path / "state", {})
    assert other.series.is_source(UID)
    filled.series.refuse(UID, "GeometryError")
    assert not other.series.is_source(UID)
    filled.refresh()
    assert not filled.series.is_source(UID)
