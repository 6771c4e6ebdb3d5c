import gzip
import json

import nibabel
import numpy as np
import pytest
from phantoms import affine_of, distinct_voxels, orientations, rotation

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.errors import DicomReadError, GeometryError
from cfmri_core.io import nifti
from cfmri_core.io.nifti import read_nifti, read_sidecar, sidecar_of, with_ending, write_nifti
from cfmri_core.volume import Volume

AFFINE = affine_of(rotation(3, 5, -7))
PARAMETERS = AcquisitionParameters(
    manufacturer="SIEMENS",
    manufacturer_model="Avanto",
    field_strength_t=1.5,
    scan_options="PFP\\FS",
    flip_angle_deg=10,
    slice_thickness_mm=2,
    echo_time_ms=1.36,
    repetition_time_ms=4.31,
)


def save(path, array, affine=AFFINE, **header):
    image = nibabel.Nifti1Image(array, affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_round_trip_in_every_orientation(tmp_path, dtype):
    voxels = distinct_voxels().astype(dtype)
    for directions in orientations():
        volume = Volume(voxels, affine_of(rotation(5, -4, 3) @ directions))
        write_nifti(tmp_path / "x.nii.gz", volume, None)
        again = read_nifti(tmp_path / "x.nii.gz")
        assert again.has_same_grid(volume)
        assert again.voxels.dtype == dtype
        assert np.array_equal(again.voxels, voxels)
    assert not (tmp_path / "x.json").exists()


def test_integers_and_scaled_values_become_float32(tmp_path):
    path = save(tmp_path / "x.nii", distinct_voxels().astype(np.int16))
    assert read_nifti(path).voxels.dtype == np.float32
    image = nibabel.Nifti1Image(distinct_voxels().astype(np.uint8), AFFINE)
    image.header.set_slope_inter(0.5, 1)
    nibabel.save(image, tmp_path / "scaled.nii")
    assert read_nifti(tmp_path / "scaled.nii").voxels.dtype == np.float32


def test_one_volume_in_four_dimensions_passes_and_more_are_refused(tmp_path):
    assert read_nifti(save(tmp_path / "x.nii", np.ones((4, 3, 2, 1), np.float32))).shape == (4, 3, 2)
    for shape in ((4, 3, 2, 5), (4, 3), (4, 3, 2, 1, 2)):
        with pytest.raises(GeometryError, match="one 3D volume"):
            read_nifti(save(tmp_path / "x.nii", np.ones(shape, np.float32)))


def test_sheared_singular_and_absent_orientation_are_refused(tmp_path):
    sheared = AFFINE.copy()
    sheared[:3, 0] += 0.01 * sheared[:3, 1]
    with pytest.raises(GeometryError, match="sheared"):
        read_nifti(save(tmp_path / "x.nii", distinct_voxels().astype(np.float32), sheared))
    image = nibabel.Nifti1Image(distinct_voxels().astype(np.float32), None)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "y.nii")
    with pytest.raises(GeometryError, match="nothing about its orientation"):
        read_nifti(tmp_path / "y.nii")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_and_colour_are_refused(tmp_path, dtype):
    with pytest.raises(DicomReadError, match="integers or real numbers"):
        read_nifti(save(tmp_path / "x.nii", np.zeros((3, 3, 3), dtype)))


def test_not_a_number_is_refused(tmp_path):
    array = np.ones((3, 3, 3), np.float32)
    array[1, 1, 1] = np.nan
    with pytest.raises(GeometryError, match=r"x\.nii: .*NaN"):
        read_nifti(save(tmp_path / "x.nii", array))


def test_damaged_files_are_refused_in_one_line(tmp_path):
    good = save(tmp_path / "good.nii.gz", distinct_voxels((20, 20, 20)).astype(np.float32)).read_bytes()
    rng = np.random.default_rng(4)
    cases = [b"", b"no", good[:300], good[: len(good) // 2], gzip.compress(b"\0" * 400)]
    for _ in range(60):
        data = bytearray(gzip.decompress(good))
        for place in rng.integers(0, 352, 4):
            data[place] = rng.integers(256)
        cases.append(gzip.compress(bytes(data), 1))
    path = tmp_path / "bad.nii.gz"
    for number, content in enumerate(cases):
        path.write_bytes(content)
        message = refusal_of(path)
        assert message or number >= 5
        assert not message or message.startswith(str(path))


def refusal_of(path):
    try:
        read_nifti(path)
    except (DicomReadError, GeometryError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["mask.nrrd", "segmentation.dcm", "series"])
def test_another_format_is_called_that(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if name == "series" else path.write_bytes(b"NRRD0005\n")
    assert refusal_of(path) == f"{path}: not a NIfTI file. Give a .nii or .nii.gz."


def test_absent_file_and_huge_dimensions_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DicomReadError, match="no such file"):
        read_nifti(tmp_path / "no.nii.gz")
    path = save(tmp_path / "x.nii", np.ones((5, 5, 5), np.float32))
    monkeypatch.setattr(nifti, "MAX_VOXELS", 100)
    with pytest.raises(DicomReadError, match="not accepted"):
        read_nifti(path)


def test_sidecar_is_in_seconds_and_comes_back_in_milliseconds(tmp_path):
    sidecar = sidecar_of(PARAMETERS)
    assert sidecar["EchoTime"] == 0.00136
    assert sidecar["RepetitionTime"] == sidecar["RepetitionTimeExcitation"] == 0.00431
    assert sidecar["ManufacturersModelName"] == "Avanto"
    write_nifti(tmp_path / "x.nii.gz", Volume(distinct_voxels().astype(np.float32), AFFINE), sidecar)
    record = read_sidecar(tmp_path / "x.nii.gz")
    assert record.parameters == PARAMETERS
    assert record.sources["echo_time_ms"].attribute == "EchoTime"
    assert record.sources["echo_time_ms"].raw == "0.00136"
    assert read_sidecar(tmp_path / "x.json") == record


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {}),
        ({"EchoTime": 2.93}, {}),  # milliseconds by mistake: 2930 ms is no echo time
        ({"RepetitionTimeExcitation": 0.005}, {"repetition_time_ms": 5.0}),
        ({"RepetitionTime": 2.3, "RepetitionTimeExcitation": 0.005}, {"repetition_time_ms": 2300.0}),
        ({"MagneticFieldStrength": 2.8936}, {"field_strength_t": 3.0}),
        ({"ScanOptions": ["FAST_GEMS", "FS"]}, {"scan_options": "FAST_GEMS\\FS"}),
        ({"ScanOptions": "PFP\\FS", "FlipAngle": "ten"}, {"scan_options": "PFP\\FS"}),
        ({"FlipAngle": True, "Manufacturer": None, "SliceThickness": {}}, {}),
    ],
)
def test_sidecar_traps(tmp_path, content, expected):
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_sidecar(tmp_path / "x.nii.gz").parameters.known() == expected


def test_absent_sidecar_means_unknown_and_a_damaged_one_is_refused(tmp_path):
    assert read_sidecar(tmp_path / "x.nii.gz").parameters == AcquisitionParameters()
    for text in ("[1]", "{", "\xff"):
        (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(DicomReadError, match=r"x\.json"):
            read_sidecar(tmp_path / "x.nii.gz")


def test_reference_sidecars_of_a_converter(real_dicom):
    folder = real_dicom / "dcm_qa_cs_dl/Ref"
    record = read_sidecar(folder / "Si_4_t2_tse_tra_p2_DR_off.json")
    assert record.parameters.field_strength_t == 1.5
    assert record.parameters.manufacturer_model == "MAGNETOM Sola"
    assert 1 < record.parameters.echo_time_ms < 500
    assert read_nifti(folder / "Ph_401_T1W_FFE_Sno_CS2.nii.gz").shape == (256, 256, 24)
    assert read_sidecar(folder / "Ph_401_T1W_FFE_Sno_CS2.nii.gz").parameters.echo_time_ms == pytest.approx(3.568)


def test_endings(tmp_path):
    assert with_ending(tmp_path / "sub-01_T1w.nii.gz", ".json").name == "sub-01_T1w.json"
    assert with_ending(tmp_path / "a.b.NII", "_evidence.json").name == "a.b_evidence.json"
