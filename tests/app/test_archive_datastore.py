"""Labels of archived images: checked against the fetched image, queued for the archive, and nothing queued in vain."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from cfmri_server.archive_datastore import ArchiveDatastore
from cfmri_server.problem import FieldError, NotFoundError
from phantoms import affine_of, distinct_voxels, write_series

from cfmri_core.dicom.read import read_series
from cfmri_core.errors import GeometryError
from cfmri_core.io.nifti import read_nifti

UID = "1.2.3.4.5.6"


class Outbox:
    """Notes what is queued, without sending it."""

    def __init__(self, folder):
        self.folder, self.queued = folder, []

    def add(self, kind, image_id, write):
        self.folder.mkdir(exist_ok=True)
        write(self.folder)
        self.queued.append((kind, image_id))
        return "1.2.3"


@pytest.fixture
def archive(tmp_path):
    """An archive of one series, which is at hand."""
    write_series(tmp_path / "series", distinct_voxels(), affine_of(np.eye(3)))
    listed = SimpleNamespace(series=SimpleNamespace(description="T1", images=1), acquisition={})
    series = SimpleNamespace(is_source=lambda uid: uid == UID, sources=lambda: {UID: listed})
    return SimpleNamespace(
        series=series,
        outbox=Outbox(tmp_path / "outbox"),
        is_fetched=lambda uid: uid == UID,
        fetched=lambda _uid, _progress=None: tmp_path / "series",
        forget=lambda _uid: None,
    )


@pytest.fixture
def datastore(archive, tmp_path):
    return ArchiveDatastore(tmp_path / "datastore", archive, auto_reload=False, read_only=False)


def label_file(folder, value, shift_mm=0.0):
    volume = read_series(folder / "series").volume
    affine = volume.affine + np.pad([[shift_mm]], ((0, 3), (3, 0)))
    nibabel.save(nibabel.Nifti1Image(np.full(volume.shape, value, np.uint8), affine), folder / "label.nii.gz")
    return str(folder / "label.nii.gz")


def test_a_final_label_is_stored_and_queued(datastore, archive, tmp_path):
    datastore.save_label(UID, label_file(tmp_path, 2), "draft", {})
    assert archive.outbox.queued == []
    datastore.save_label(UID, label_file(tmp_path, 1), "final", {})
    assert [image_id for _, image_id in archive.outbox.queued] == [UID]
    assert read_nifti(tmp_path / "datastore/labels/final" / f"{UID}.nii.gz").voxels.max() == 1


@pytest.mark.parametrize(("value", "shift_mm", "refusal"), [(3, 0.0, FieldError), (1, 5.0, GeometryError)])
def test_a_bad_label_is_neither_stored_nor_queued(datastore, archive, tmp_path, value, shift_mm, refusal):
    with pytest.raises(refusal):
        datastore.save_label(UID, label_file(tmp_path, value, shift_mm), "final", {})
    assert archive.outbox.queued == []
    assert datastore.get_labels_by_image_id(UID) == {}


def test_a_series_that_is_still_in_the_archive_is_not_overwritten(datastore, tmp_path):
    image = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4)), image)
    with pytest.raises(FieldError, match="already"):
        datastore.add_image(UID, str(image), {})


def test_deleting_drops_copy_and_labels_and_the_series_stays_listed(datastore, tmp_path):
    datastore.save_label(UID, label_file(tmp_path, 1), "final", {})
    datastore.remove_image(UID)
    assert datastore.list_images() == [UID]
    assert datastore.get_labels_by_image_id(UID) == {}
    assert list((tmp_path / "datastore").rglob(f"{UID}*")) == []
    with pytest.raises(NotFoundError):
        datastore.remove_image("1.2.9")


def test_a_patient_is_known_by_more_than_the_series(datastore, tmp_path):
    assert datastore.patient_of("uploaded") == ""
    header = pydicom.dcmread(min((tmp_path / "series").iterdir()))
    assert datastore.patient_of(UID) == header.PatientID != ""
    for file in (tmp_path / "series").iterdir():
        header = pydicom.dcmread(file)
        header.PatientID = ""
        header.save_as(file)
    assert datastore.patient_of(UID) == header.StudyInstanceUID
