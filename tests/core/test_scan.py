import json

import nibabel
import numpy as np
import pydicom
import pytest
from phantoms import affine_of, distinct_voxels, rotation, save, slice_dataset, write_enhanced, write_series

from cfmri_core.dicom.read import find_series
from cfmri_core.errors import CfmriError, DicomReadError, GeometryError, RequestError
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.io.scan import describe, read_scan, write_anatomy_edit, write_counterfactual, write_labels
from cfmri_core.volume import Volume

VOXELS = distinct_voxels()
AFFINE = affine_of(rotation(4, 9, -17))
EVIDENCE = {"synthetic": True, "model": {"sha256": "ab" * 32}, "seed": 3, "warnings": []}


@pytest.fixture
def dicom(tmp_path):
    return write_series(tmp_path / "dicom", VOXELS, AFFINE)


@pytest.fixture
def nifti(tmp_path, dicom):
    scan = read_scan(dicom)
    path = tmp_path / "in" / "sub-01_T1w.nii.gz"
    path.parent.mkdir()
    write_nifti(path, scan.volume, sidecar_of(scan.acquisition.parameters))
    return path


def edited(scan, changes=None):
    requested = scan.acquisition.parameters.replaced(changes or {"echo_time_ms": 1.4})
    return scan.volume.with_voxels(scan.volume.voxels * np.float32(1.5)), requested


def test_dicom_and_nifti_give_the_same_scan(dicom, nifti):
    one, other = read_scan(dicom), read_scan(nifti)
    assert one.volume.has_same_grid(other.volume)
    assert np.array_equal(one.volume.voxels, other.volume.voxels)
    assert one.acquisition.parameters == other.acquisition.parameters
    assert (one.series is None, other.series is None) == (False, True)
    assert other.volume.voxels.dtype == np.float32


def test_edited_anatomy_that_is_brighter_than_16_bits_hold_is_cut_and_said_to_be(tmp_path, dicom):
    """As in a series that this package spread over all 16 bits."""
    scan = read_scan(dicom)
    voxels = scan.volume.voxels.copy()
    voxels[0, 0, :2] = 65535, 66000
    within = write_anatomy_edit(tmp_path / "a", scan, scan.volume, EVIDENCE)
    beyond = write_anatomy_edit(tmp_path / "b", scan, scan.volume.with_voxels(voxels), EVIDENCE)
    exact = write_anatomy_edit(tmp_path / "c.nii.gz", scan, scan.volume.with_voxels(voxels), EVIDENCE)
    assert within["warnings"] == exact["warnings"] == []
    assert "range: 1 voxels lie beyond the source's 16 bits" in beyond["warnings"][0]
    assert json.loads((tmp_path / "b" / "evidence.json").read_text())["warnings"] == beyond["warnings"]
    assert read_scan(tmp_path / "b").volume.voxels.max() == 65535


def test_description_of_a_series(dicom):
    description = json.loads(json.dumps(describe(dicom)))
    assert description["format"] == "dicom"
    assert (description["series_count"], description["images"], description["is_synthetic"]) == (1, 4, False)
    assert description["shape"] == [7, 5, 4]
    assert description["spacing_mm"] == pytest.approx([0.9, 1.3, 2.5])
    assert np.array(description["affine"]).shape == (4, 4)
    assert description["refusal"] is None
    assert description["acquisition"]["field_strength_t"] == {
        "value": 1.5,
        "unit": "T",
        "attribute": "MagneticFieldStrength (0018,0087)",
        "raw": "1.494",
    }


def test_description_of_other_formats(nifti, tmp_path):
    assert describe(nifti)["format"] == "nifti"
    assert describe(nifti)["acquisition"]["echo_time_ms"]["attribute"] == "EchoTime"
    enhanced = describe(write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE))
    assert (enhanced["format"], enhanced["images"], enhanced["shape"]) == ("dicom-enhanced", 4, [7, 5, 4])
    assert enhanced["acquisition"]["scan_options"] == {"value": None, "unit": "", "attribute": None, "raw": None}


def test_parameters_are_told_even_where_there_is_no_volume(dicom, tmp_path):
    next(dicom.glob("*1.dcm")).unlink()
    far = {"ImagePositionPatient": ["0", "0", "900"], "SOPInstanceUID": "2.25.900"}
    save(dicom / "far.dcm", slice_dataset(VOXELS, AFFINE, 0, far))
    description = describe(dicom)
    assert description["shape"] is None
    assert description["refusal"]["type"] == "GeometryError"
    assert description["acquisition"]["echo_time_ms"]["value"] == 2.81
    path = tmp_path / "four.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((2, 2, 2, 2), np.float32), np.eye(4)), path)
    assert describe(path)["refusal"]["type"] == "GeometryError"
    with pytest.raises(GeometryError):
        read_scan(path)


def test_counterfactual_as_dicom(dicom, tmp_path):
    scan = read_scan(dicom)
    volume, requested = edited(scan)
    output = write_counterfactual(tmp_path / "out", scan, volume, requested, EVIDENCE)
    again = read_scan(output)
    assert again.volume.has_same_grid(scan.volume)
    assert again.acquisition.parameters == requested
    assert describe(output)["is_synthetic"]
    assert json.loads((output / "evidence.json").read_text())["seed"] == 3


@pytest.mark.parametrize("input_name", ["dicom", "nifti"])
def test_counterfactual_as_nifti(request, tmp_path, input_name):
    scan = read_scan(request.getfixturevalue(input_name))
    volume, requested = edited(scan, {"echo_time_ms": 1.4, "manufacturer": "GE"})
    output = write_counterfactual(tmp_path / "cf.nii.gz", scan, volume, requested, EVIDENCE)
    again = read_scan(output)
    assert again.volume.has_same_grid(scan.volume)
    assert np.allclose(again.volume.voxels, volume.voxels)
    assert again.acquisition.parameters == requested
    sidecar = json.loads((tmp_path / "cf.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["GeneratedBy"][0]["Name"] == "cfmri"
    assert "echo_time_ms=2.81" in sidecar["Description"]
    assert sidecar["Sources"] == (["sub-01_T1w.nii.gz"] if input_name == "nifti" else [sidecar["Sources"][0]])
    assert sidecar["EchoTime"] == 0.0014
    assert json.loads((tmp_path / "cf_evidence.json").read_text())["model"]["sha256"] == "ab" * 32
    assert describe(output)["is_synthetic"]


def test_nothing_of_the_patient_reaches_nifti(dicom, tmp_path):
    scan = read_scan(dicom)
    volume, requested = edited(scan)
    write_counterfactual(tmp_path / "cf.nii", scan, volume, requested, EVIDENCE)
    for path in tmp_path.glob("cf*"):
        assert b"SENTINEL" not in path.read_bytes()
        assert scan.series.headers[0].SeriesInstanceUID.encode() not in path.read_bytes()


def test_own_nifti_results_are_replaced_and_other_files_never(nifti, tmp_path):
    scan = read_scan(nifti)
    volume, requested = edited(scan)
    for _ in range(2):
        write_counterfactual(tmp_path / "cf.nii.gz", scan, volume, requested, EVIDENCE)
    with pytest.raises(RequestError, match="not made by cfmri"):
        write_counterfactual(nifti, scan, volume, requested, EVIDENCE)
    with pytest.raises(RequestError, match="not made by cfmri"):
        write_labels(nifti, scan, Volume(np.zeros((7, 5, 4), np.uint8), scan.volume.affine))
    (tmp_path / "lone.json").write_text("{}")
    with pytest.raises(RequestError):
        write_counterfactual(tmp_path / "lone.nii.gz", scan, volume, requested, EVIDENCE)


def test_dicom_of_nifti_and_other_grids_are_refused(nifti, dicom, tmp_path):
    scan = read_scan(nifti)
    volume, requested = edited(scan)
    with pytest.raises(RequestError, match="needs a DICOM input"):
        write_counterfactual(tmp_path / "out", scan, volume, requested, EVIDENCE)
    other = Volume(volume.voxels, affine_of(np.eye(3)))
    with pytest.raises(GeometryError):
        write_counterfactual(tmp_path / "out.nii.gz", scan, other, requested, EVIDENCE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom", "in"]


def test_slab_as_nifti_and_dicom(dicom, tmp_path):
    scan = read_scan(dicom)
    volume, requested = edited(scan)
    affine = volume.affine.copy()
    affine[:3, 3] = (affine @ (0, 0, 2, 1))[:3]
    slab = Volume(volume.voxels[:, :, 2:3], affine)
    for name in ("slab.nii.gz", "slab"):
        output = write_counterfactual(tmp_path / name, scan, slab, requested, EVIDENCE)
        assert read_scan(output).volume.has_same_grid(slab)


def test_labels_as_nifti_and_dicom(dicom, tmp_path):
    scan = read_scan(dicom)
    labels = Volume((scan.volume.voxels % 3).astype(np.uint8), scan.volume.affine)
    write_labels(tmp_path / "labels.nii.gz", scan, labels)
    assert np.array_equal(nibabel.load(tmp_path / "labels.nii.gz").get_fdata(), labels.voxels)
    assert json.loads((tmp_path / "labels.json").read_text())["Labels"]["2"] == "fibroglandular tissue"
    assert write_labels(tmp_path / "seg", scan, labels) == tmp_path / "seg" / "segmentation.dcm"
    path = write_labels(tmp_path / "seg.dcm", scan, labels)
    assert pydicom.dcmread(path).Modality == "SEG"
    for taken in (tmp_path / "seg", tmp_path / "seg.dcm"):
        with pytest.raises(RequestError, match="exists already"):
            write_labels(taken, scan, labels)
    with pytest.raises(RequestError, match="needs a DICOM input"):
        write_labels(tmp_path / "x.dcm", read_scan(tmp_path / "labels.nii.gz"), labels)


def test_absent_input_is_refused(tmp_path):
    for name in ("nowhere", "no.nii.gz"):
        for function in (read_scan, describe):
            with pytest.raises(DicomReadError):
                function(tmp_path / name)


def test_every_real_folder_is_described_or_refused(real_dicom):
    for folder in [real_dicom, real_dicom / "dcm_qa_ge", *find_series(real_dicom)[-3:]]:
        try:
            assert json.dumps(describe(folder))
        except CfmriError as error:
            assert str(error).startswith(str(folder))  # noqa: PT017
