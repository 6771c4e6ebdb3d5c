import os
import random
import resource
import shutil
import time

import numpy as np
import pytest
from phantoms import (
    affine_of,
    assert_same_image,
    distinct_voxels,
    orientations,
    rotation,
    save,
    slice_dataset,
    write_enhanced,
    write_series,
)
from pydicom.dataset import Dataset

from cfmri_core.dicom import read
from cfmri_core.dicom.read import find_series, form_grid, read_files, read_headers, read_series
from cfmri_core.errors import DicomReadError, GeometryError

VOXELS = distinct_voxels()
AFFINE = affine_of(rotation(5, -8, 12))


def write_slices(folder, count=4, **changes_by_slice):
    """Write a series; ``slice_2={"EchoTime": "9"}`` changes one slice."""
    for k in range(count):
        dataset = slice_dataset(distinct_voxels((7, 5, count)), AFFINE, k, changes_by_slice.get(f"slice_{k}"))
        save(folder / f"{k}.dcm", dataset)
    return folder


@pytest.mark.parametrize("tilt", [(0, 0, 0), (9, -21, 33)])
def test_every_orientation_reads_at_the_right_place(tmp_path, tilt):
    for number, directions in enumerate(orientations()):
        affine = affine_of(rotation(*tilt) @ directions)
        series = read_series(write_series(tmp_path / str(number), VOXELS, affine))
        assert series.volume.voxels.dtype == np.float32
        assert np.linalg.det(series.volume.affine) > 0
        assert_same_image(VOXELS, affine, series.volume.voxels, series.volume.affine)


def test_headers_come_in_slice_order_without_pixels(tmp_path):
    series = read_series(write_series(tmp_path, VOXELS, AFFINE))
    for k, header in enumerate(series.headers):
        position = series.volume.affine @ (0, 0, k, 1)
        assert np.allclose(np.array(header.ImagePositionPatient, float) * (-1, -1, 1), position[:3])
        assert "PixelData" not in header
    assert series.frame_numbers == ()


def test_single_file_is_a_volume_of_one_slice(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE)
    assert read_series(tmp_path / "IM0002.dcm").volume.shape == (7, 5, 1)


def test_rescale_is_applied(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE, {"RescaleSlope": "0.25", "RescaleIntercept": "-10"})
    values = read_series(tmp_path).volume.voxels
    assert sorted(values.ravel()) == pytest.approx(sorted(VOXELS.ravel() * 0.25 - 10.0))


def test_enhanced_image_reads_like_a_classic_series(tmp_path):
    path = write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE)
    series = read_series(path)
    assert_same_image(VOXELS * 0.5 - 3.0, AFFINE, series.volume.voxels, series.volume.affine)
    assert sorted(series.frame_numbers) == [1, 2, 3, 4]
    assert series.acquisition.parameters.echo_time_ms == 2.81
    assert read_series(tmp_path).volume.has_same_grid(series.volume)


def test_classic_image_that_counts_its_one_frame_stays_classic(tmp_path):
    assert read_series(write_series(tmp_path, VOXELS, AFFINE, {"NumberOfFrames": 1})).frame_numbers == ()


def test_enhanced_multi_echo_is_refused_and_still_described(tmp_path):
    headers = read_headers(write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE, (1.5, 4.0)))
    assert headers.acquisition.parameters.echo_time_ms == 1.5
    with pytest.raises(DicomReadError, match=r"8 images at 4 positions are not one volume.*multi-echo"):
        form_grid(headers)


def test_other_files_in_the_folder_are_passed_over(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE)
    (tmp_path / "evidence.json").write_text("{}")
    (tmp_path / "README").write_text("hello")
    (tmp_path / ".hidden").write_text("hello")
    raw = slice_dataset(VOXELS, AFFINE, 0, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66", "SeriesInstanceUID": "1.9"})
    save(tmp_path / "raw.dcm", raw)
    assert read_series(tmp_path).volume.shape == (7, 5, 4)


def test_file_that_promises_dicom_and_is_not_is_refused(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE)
    (tmp_path / "IM0009.dcm").write_text("not DICOM")
    with pytest.raises(DicomReadError, match=r"IM0009\.dcm: not a DICOM file"):
        read_series(tmp_path)


def test_empty_folder_names_a_folder_below(tmp_path):
    write_series(tmp_path / "a" / "b", VOXELS, AFFINE)
    with pytest.raises(DicomReadError, match=r"holds no DICOM files.*1 folders below.*b\.$"):
        read_series(tmp_path)
    assert find_series(tmp_path) == [tmp_path / "a" / "b"]
    with pytest.raises(DicomReadError, match="no such file"):
        read_series(tmp_path / "nowhere")


def test_given_files_are_read_as_one_series_under_a_given_name(tmp_path):
    write_series(tmp_path / "a", VOXELS, AFFINE)
    files = sorted((tmp_path / "a").iterdir())
    moved = files[1].rename(tmp_path / "elsewhere.dcm")
    series = read_files([files[0], moved, *files[2:]], "key")
    assert_same_image(VOXELS, AFFINE, series.volume.voxels, series.volume.affine)
    with pytest.raises(GeometryError, match=r"^key: Slices are missing"):
        read_files([files[0], *files[2:]], "key")


def test_pipe_in_a_folder_does_not_hang_it(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE)
    os.mkfifo(tmp_path / "pipe.dcm")
    assert read_series(tmp_path).volume.shape == (7, 5, 4)
    with pytest.raises(DicomReadError, match="not a regular file"):
        read_series(tmp_path / "pipe.dcm")


def test_several_series_are_counted(tmp_path):
    write_series(tmp_path, VOXELS, AFFINE)
    for number in (1, 2):
        save(tmp_path / f"o{number}.dcm", slice_dataset(VOXELS, AFFINE, 0, {"SeriesInstanceUID": f"1.9.{number}"}))
    with pytest.raises(DicomReadError, match="holds 3 series in 6 files"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"slice_1": {"EchoTime": "9"}}, DicomReadError, "EchoTime: several contrasts"),
        ({"slice_1": {"RepetitionTime": None}}, DicomReadError, "RepetitionTime"),
        ({"slice_2": {"RescaleSlope": "2"}}, DicomReadError, "RescaleSlope"),
        ({"slice_2": {"BitsStored": 12, "HighBit": 11}}, DicomReadError, "BitsStored"),
        ({"slice_2": {"FrameOfReferenceUID": "1.2.99"}}, DicomReadError, "FrameOfReferenceUID"),
        ({"slice_2": {"PatientID": "OTHER"}}, DicomReadError, "PatientID"),
        ({"slice_2": {"PixelSpacing": ["1.3", "1.0"]}}, GeometryError, "pixel spacing"),
        ({"slice_2": {"ImagePositionPatient": ["0", "0", "400"]}}, GeometryError, "missing or misplaced"),
        ({"slice_2": {"ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"]}}, GeometryError, "not parallel"),
        ({"slice_2": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}}, DicomReadError, "mosaic"),
        ({"slice_2": {"PixelData": None}}, DicomReadError, "no pixel data"),
        ({"slice_2": {"ImagePositionPatient": None}}, GeometryError, "ImagePositionPatient is absent"),
        ({"slice_2": {"Rows": 4}}, DicomReadError, "too long"),
        ({"slice_2": {"SOPInstanceUID": "1.2.3.4.5.6.1"}}, DicomReadError, "Different files carry one SOPInstanceUID"),
        ({"slice_2": {"SOPInstanceUID": ""}}, DicomReadError, "An image has no SOPInstanceUID"),
        ({f"slice_{k}": {"SeriesInstanceUID": None} for k in range(4)}, DicomReadError, "has no SeriesInstanceUID"),
        ({f"slice_{k}": {"SliceLocation": z} for k, z in enumerate((0, 2, 1, 3))}, DicomReadError, "different orders"),
    ],
)
def test_slices_that_do_not_belong_together_are_refused(tmp_path, changes, error, reason):
    write_slices(tmp_path, **changes)
    with pytest.raises(error, match=reason) as caught:
        read_series(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "SENTINEL" not in str(caught.value)
    assert read_headers(tmp_path).acquisition.parameters.flip_angle_deg == 10


def test_missing_slice_is_refused(tmp_path):
    write_slices(tmp_path, 6)
    (tmp_path / "3.dcm").unlink()
    with pytest.raises(GeometryError, match="Slices are missing"):
        read_series(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"EchoTime": "7"}, "multi-echo"),
        ({"AcquisitionNumber": 2}, "dynamic or diffusion"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "magnitude and phase"),
        ({"SOPInstanceUID": "1.2.77"}, "duplicates"),
        ({}, "duplicates"),
    ],
)
def test_repeated_positions_say_what_they_differ_in(tmp_path, attributes, reason):
    write_slices(tmp_path)
    for k in range(4):
        save(tmp_path / f"again{k}.dcm", slice_dataset(VOXELS, AFFINE, k, attributes))
    with pytest.raises(DicomReadError, match=f"8 images at 4 positions are not one volume.*{reason}"):
        read_series(tmp_path)


def test_too_many_files_or_voxels_are_refused(tmp_path, monkeypatch):
    write_slices(tmp_path)
    monkeypatch.setattr(read, "MAX_VOXELS", 100)
    with pytest.raises(DicomReadError, match="100 accepted"):
        read_series(tmp_path)
    monkeypatch.setattr(read, "MAX_FILES", 3)
    with pytest.raises(DicomReadError, match="up to 3"):
        read_series(tmp_path)


def test_object_of_another_kind_is_named(tmp_path):
    save(tmp_path / "ct.dcm", slice_dataset(VOXELS, AFFINE, 0, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}))
    with pytest.raises(DicomReadError, match="CT Image Storage, not an MR image"):
        read_headers(tmp_path / "ct.dcm")
    save(tmp_path / "own.dcm", slice_dataset(VOXELS, AFFINE, 0, {"SOPClassUID": "1.2.3.4"}))
    with pytest.raises(DicomReadError, match="unknown kind"):
        read_headers(tmp_path / "own.dcm")


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, or write a length bomb, as archives and attackers do."""
    kind = rng.randrange(5)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    data = bytearray(content)
    for _ in range(rng.randrange(1, 9)):
        place = rng.randrange(132, min(len(data), 3000))
        if kind == 1:
            data[place] = rng.randrange(256)
        elif kind == 2:
            data[place : place + 4] = b"\xff\xff\xff\xff"
        elif kind == 3:
            data[place : place + 2] = rng.choice([b"SQ", b"UN", b"FD", b"DS", b"US", b"??"])
        else:
            data[place : place + 4] = rng.randrange(2**32).to_bytes(4, "little")
    return bytes(data)


def refusal_of(path, read_one=read_series):
    """Return the message of a typed refusal, or an empty text; anything else escapes and fails the test."""
    try:
        read_one(path)
    except (DicomReadError, GeometryError) as error:
        return str(error)
    return ""


def test_damaged_files_give_a_typed_refusal_or_a_volume(tmp_path):
    """Nothing but typed errors, none slow, none large; seeds are fixed."""
    seeds = [
        save(tmp_path / "classic", slice_dataset(VOXELS, AFFINE, 0)),
        write_enhanced(tmp_path / "enhanced", VOXELS, AFFINE),
    ]
    rng = random.Random(5)
    target = tmp_path / "mutant.dcm"
    slowest, refused = 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(600):
        target.write_bytes(mutated(seeds[number % 2].read_bytes(), rng))
        started = time.perf_counter()
        message = refusal_of(target)
        slowest = max(slowest, time.perf_counter() - started)
        refused += bool(message)
        assert "SENTINEL" not in message
        assert "\n" not in message
    assert refused > 200
    assert slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024**2  # KiB


def test_damaged_real_files_give_a_typed_refusal_or_a_volume(real_dicom, tmp_path):
    names = ["emri_small_jpeg_2k_lossless", "emri_small_jpeg_ls_lossless", "emri_small_RLE", "emri_small_big_endian"]
    rng = random.Random(6)
    target = tmp_path / "mutant.dcm"
    for number in range(80):
        source = real_dicom / f"pydicom-data/data_store/data/{names[number % 4]}.dcm"
        target.write_bytes(mutated(source.read_bytes(), rng))
        with pytest.raises((DicomReadError, GeometryError)):  # these have no position in any case
            read_series(target)


def test_nested_sequences_do_not_overflow_the_stack(tmp_path):
    dataset = slice_dataset(VOXELS, AFFINE, 0)
    content = save(tmp_path / "x.dcm", dataset).read_bytes()
    nest = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    (tmp_path / "x.dcm").write_bytes(content[: content.index(b"\x10\x00\x10\x00PN")] + nest)
    with pytest.raises(DicomReadError):
        read_series(tmp_path / "x.dcm")


def test_real_folders_form_volumes_or_are_refused(real_dicom):
    shapes = {}
    for folder in find_series(real_dicom):
        message = refusal_of(folder, lambda path: shapes.update({path: form_grid(read_headers(path)).shape}))
        assert not message or message.startswith(str(folder))
    volumes = {str(folder.relative_to(real_dicom)): shape for folder, shape in shapes.items()}
    assert volumes == {
        "dcm_qa_cs_dl/Philips/201_T1W_TSE_Sno_CSno_CSAIno": (256, 256, 12),
        "dcm_qa_cs_dl/Philips/401_T1W_FFE_Sno_CS2": (256, 256, 24),
        "dcm_qa_cs_dl/Philips/501_T1W_FFE_Sno_CS4": (256, 256, 24),
        "dcm_qa_cs_dl/Philips/501_T1W_TSE_Sno_CSno_CSAI2": (256, 256, 12),
        "dcm_qa_ge/01_Ax_DWI_TENSOR_R2": (256, 256, 2),
        "dcm_qa_ge/02_Ax_DWI_TENSOR_R3": (256, 256, 2),
        "dcm_qa_ge/03_Ax_DWI_TENSOR_R1p5": (256, 256, 2),
        "dcm_qa_sag/2_gre_field_mapping": (42, 64, 5),
        "philips_t1_head": (256, 256, 170),
    }


def test_real_volumes_equal_the_converters_reference(real_dicom):
    nibabel = pytest.importorskip("nibabel")
    for folder, reference in (
        ("201_T1W_TSE_Sno_CSno_CSAIno", "Ph_201_T1W_TSE_Sno_CSno_CSAIno"),
        ("501_T1W_FFE_Sno_CS4", "Ph_501_T1W_FFE_Sno_CS4"),
    ):
        image = nibabel.load(real_dicom / f"dcm_qa_cs_dl/Ref/{reference}.nii.gz")
        volume = read_series(real_dicom / "dcm_qa_cs_dl/Philips" / folder).volume
        expected = image.get_fdata()
        scaled = volume.voxels * (expected.max() / volume.voxels.max())  # the converter also applies Philips' own scale
        assert_same_image(scaled, volume.affine, expected, image.affine, 1e-5 * float(expected.max()))


def test_two_copies_of_a_folder_do_not_mix(tmp_path):
    write_series(tmp_path / "a", VOXELS, AFFINE)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert find_series(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert isinstance(read_headers(tmp_path / "a").frames[0].header, Dataset)
