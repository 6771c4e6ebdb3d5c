"""From a folder of studies to what is served."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from cfmri_server.datastore import ContainedDatastore
from cfmri_server.identifiers import is_image_id
from cfmri_server.studies import prepare_datastore, safe_image_id
from duke_tree import add_patient, clinical_rows, write_csv, write_masks
from phantoms import affine_of, distinct_voxels, rotation, write_series

from cfmri_core.dicom.read import read_series
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti, read_sidecar


@pytest.fixture
def simulated(studies, tmp_path):
    shutil.copytree(studies, tmp_path / "studies", ignore=shutil.ignore_patterns(".monailabel"))
    return tmp_path / "studies"


def test_simulated_studies_become_nifti_with_sidecar_and_labels(simulated):
    datastore = prepare_datastore(simulated)
    assert datastore == simulated / ".monailabel" / "datastore"
    series = read_series(simulated / "sub-0001" / "dicom")
    image = read_nifti(datastore / "sub-0001.nii.gz")
    np.testing.assert_array_equal(image.voxels, series.volume.voxels)
    assert image.has_same_grid(series.volume)
    assert read_sidecar(datastore / "sub-0001.nii.gz").parameters == series.acquisition.parameters
    assert read_nifti(datastore / "labels/final/sub-0001.nii.gz").has_same_grid(image, tolerance_mm=1e-2)


def test_a_second_start_converts_nothing_and_keeps_corrected_labels(simulated):
    datastore = prepare_datastore(simulated)
    label = datastore / "labels/final/sub-0001.nii.gz"
    shutil.copyfile(datastore / "labels/final/sub-0002.nii.gz", label)
    corrected, image_time = label.read_bytes(), (datastore / "sub-0001.nii.gz").stat().st_mtime_ns
    (datastore / "sub-0002.nii.gz").unlink()
    assert prepare_datastore(simulated) == datastore
    assert label.read_bytes() == corrected
    assert (datastore / "sub-0001.nii.gz").stat().st_mtime_ns == image_time
    assert (datastore / "sub-0002.nii.gz").exists()


def test_a_deleted_image_stays_deleted_and_its_name_with_it(simulated):
    folder = prepare_datastore(simulated)
    ContainedDatastore(folder, auto_reload=False, read_only=False).remove_image("sub-0001")
    os.utime(simulated / "sub-0001" / "dicom")  # newer than what was converted
    assert prepare_datastore(simulated) == folder
    assert list(folder.rglob("*sub-0001*")) == []
    assert (folder / "sub-0002.nii.gz").exists()


def test_a_new_image_under_the_id_of_a_deleted_one_is_kept(simulated, tmp_path):
    folder = prepare_datastore(simulated)
    datastore = ContainedDatastore(folder, auto_reload=False, read_only=False)
    datastore.remove_image("sub-0001")
    datastore.add_image("sub-0001", str(shutil.copy(folder / "sub-0002.nii.gz", tmp_path)), {})
    os.utime(simulated / "sub-0001" / "dicom", (2**32, 2**32))
    prepare_datastore(simulated)
    assert (folder / "sub-0001.nii.gz").read_bytes() == (folder / "sub-0002.nii.gz").read_bytes()


def test_any_tree_of_dicom_series_is_served_without_labels(simulated, tmp_path):
    tree = tmp_path / "archive" / "Patient One" / "2026"
    shutil.copytree(simulated / "sub-0001" / "dicom", tree / "series 3")
    datastore = prepare_datastore(tmp_path / "archive")
    images = [path.name for path in datastore.glob("*.nii.gz")]
    assert len(images) == 1
    assert is_image_id(images[0].removesuffix(".nii.gz"))
    assert not (datastore / "labels").exists()


def test_a_flat_folder_is_served_as_it_is(simulated):
    flat = prepare_datastore(simulated)
    assert prepare_datastore(flat) == flat


def test_one_unreadable_study_does_not_stop_the_others(simulated, caplog):
    for file in (simulated / "sub-0001" / "dicom").iterdir():
        file.write_bytes(b"no DICOM")
    datastore = prepare_datastore(simulated)
    assert [path.name for path in datastore.glob("*.nii.gz")] == ["sub-0002.nii.gz"]
    assert "sub-0001" not in caplog.text


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no"):
        prepare_datastore(tmp_path)
    with pytest.raises(RequestError, match="not a folder"):
        prepare_datastore(tmp_path / "absent")


def test_changed_names_stay_apart():
    assert safe_image_id("sub-0001") == "sub-0001"
    names = ["a/b", "a b", "..", "é", "x" * 300]
    ids = [safe_image_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(is_image_id(name) for name in ids)


def test_a_duke_tree_is_served_with_its_masks_and_table(tmp_path):
    voxels, affine = distinct_voxels(), affine_of(rotation(2, 3, 4))
    labels = (np.indices(voxels.shape).sum(axis=0) % 3).astype(np.uint8)
    add_patient(tmp_path, "Breast_MRI_001", write_series(tmp_path.with_name(tmp_path.name + "-series"), voxels, affine))
    write_masks(tmp_path / "Segmentation_Masks_NRRD" / "Breast_MRI_001", labels, affine)
    cells = {"Breast_MRI_001": {"TE (Echo Time)": "2.5"}}
    write_csv(tmp_path / "Clinical_and_Other_Features.csv", clinical_rows(cells))
    datastore = prepare_datastore(tmp_path)
    image = datastore / "Breast_MRI_001.nii.gz"
    assert read_sidecar(image).parameters.echo_time_ms == pytest.approx(2.5)
    served = read_nifti(datastore / "labels/final/Breast_MRI_001.nii.gz")
    assert served.has_same_grid(read_nifti(image), tolerance_mm=1e-2)
    assert np.bincount(served.voxels.ravel()).tolist() == np.bincount(labels.ravel()).tolist()
