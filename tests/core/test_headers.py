import csv

import numpy as np
import pytest
from phantoms import SERIES_UID, affine_of, distinct_voxels, slice_dataset, write_converted, write_enhanced
from pydicom.dataset import Dataset

from cfmri_core.dicom.headers import decimal_string, frame_headers, header_of, read_acquisition
from cfmri_core.dicom.parser import parse_file
from cfmri_core.dicom.read import read_headers
from cfmri_core.errors import DicomReadError

INDEX_COLUMNS = {
    "manufacturer": "Manufacturer",
    "manufacturer_model": "ManufacturerModelName",
    "scan_options": "ScanOptions",
    "flip_angle_deg": "FlipAngle",
    "slice_thickness_mm": "SliceThickness",
    "echo_time_ms": "EchoTime",
    "repetition_time_ms": "RepetitionTime",
}


def header(**attributes) -> Dataset:
    return slice_dataset(distinct_voxels(), affine_of(np.eye(3)), 0, attributes)


def test_classic_header_gives_every_parameter_with_its_attribute():
    record = read_acquisition(header())
    assert record.parameters.as_dict() == {
        "manufacturer": "SIEMENS",
        "manufacturer_model": "Avanto",
        "field_strength_t": 1.5,
        "scan_options": "PFP\\FS",
        "flip_angle_deg": 10.0,
        "slice_thickness_mm": 2.0,
        "echo_time_ms": 2.81,
        "repetition_time_ms": 5.53,
    }
    assert record.sources["field_strength_t"].attribute == "MagneticFieldStrength (0018,0087)"
    assert record.sources["field_strength_t"].raw == "1.494"


@pytest.mark.parametrize(
    ("attributes", "name", "value", "raw"),
    [
        ({"ScanOptions": None}, "scan_options", None, None),
        ({"ScanOptions": ""}, "scan_options", None, None),
        ({"ScanOptions": "FAST_GEMS"}, "scan_options", "FAST_GEMS", "FAST_GEMS"),
        ({"SliceThickness": ""}, "slice_thickness_mm", None, None),
        ({"EchoTime": "0"}, "echo_time_ms", None, "0"),
        ({"EchoTime": "-1"}, "echo_time_ms", None, "-1"),
        ({"FlipAngle": "400"}, "flip_angle_deg", None, "400"),
        ({"MagneticFieldStrength": "2.8936"}, "field_strength_t", 3.0, "2.8936"),
        ({"MagneticFieldStrength": "15000"}, "field_strength_t", None, "15000"),
        (
            {"Manufacturer": "Philips Medical Systems"},
            "manufacturer",
            "Philips Medical Systems",
            "Philips Medical Systems",
        ),
        ({"Manufacturer": ""}, "manufacturer", None, None),
    ],
)
def test_header_traps(attributes, name, value, raw):
    record = read_acquisition(header(**attributes))
    assert getattr(record.parameters, name) == value
    assert (record.sources[name].raw if name in record.sources else None) == raw


def test_damaged_number_is_unknown():
    dataset = header()
    dataset._dict[0x00180081] = type(dataset.data_element("EchoTime"))(0x00180081, "LO", "not a number")
    assert read_acquisition(dataset).parameters.echo_time_ms is None


def test_enhanced_image_reads_shared_and_per_frame_groups(tmp_path):
    path = write_enhanced(tmp_path / "e.dcm", distinct_voxels(), affine_of(np.eye(3)))
    record = read_acquisition(parse_file(path))
    assert record.parameters.known() == {
        "manufacturer": "SIEMENS",
        "manufacturer_model": "Avanto",
        "field_strength_t": 1.5,
        "flip_angle_deg": 10.0,
        "slice_thickness_mm": 2.0,
        "echo_time_ms": 2.81,
        "repetition_time_ms": 5.53,
    }
    assert record.sources["echo_time_ms"].attribute == "MREchoSequence.EffectiveEchoTime (0018,9082)"


def test_frame_headers_are_classic_headers(tmp_path):
    voxels = distinct_voxels()
    path = write_enhanced(tmp_path / "e.dcm", voxels, affine_of(np.eye(3)))
    frames = frame_headers(header_of(parse_file(path)))
    assert len(frames) == voxels.shape[2]
    assert frames[0].EchoTime == 2.81
    assert frames[0].ScanningSequence == "GR"
    assert frames[0].RescaleSlope == 0.5
    assert "PixelData" not in frames[0]
    assert frames[0].ImagePositionPatient != frames[1].ImagePositionPatient


def test_converted_image_gives_what_it_kept_of_the_classic_ones(tmp_path):
    path = write_converted(tmp_path / "c.dcm", distinct_voxels(), affine_of(np.eye(3)))
    record = read_acquisition(parse_file(path))
    assert record.parameters.known() == {
        "manufacturer": "SIEMENS", "manufacturer_model": "Avanto", "field_strength_t": 1.5, "scan_options": "PFP\\FS",
        "flip_angle_deg": 10.0, "slice_thickness_mm": 2.0, "echo_time_ms": 2.81, "repetition_time_ms": 5.53,
    }  # fmt: skip
    assert record.sources["echo_time_ms"].attribute == (
        "UnassignedPerFrameConvertedAttributesSequence.EchoTime (0018,0081)"
    )
    frames = frame_headers(header_of(parse_file(path)))
    assert [frame.SliceLocation for frame in frames] == [0, 1, 2, 3]
    assert {(frame.EchoTime, frame.ScanningSequence, frame.SOPInstanceUID) for frame in frames} == {
        (2.81, "GR", f"{SERIES_UID}.1")
    }


def test_frame_count_that_does_not_fit_is_refused(tmp_path):
    dataset = parse_file(write_enhanced(tmp_path / "e.dcm", distinct_voxels(), affine_of(np.eye(3))))
    for count in (3, 0, 10**9):
        dataset.NumberOfFrames = count
        with pytest.raises(DicomReadError, match="frames"):
            frame_headers(header_of(dataset) if count else _without_groups(dataset))


def _without_groups(dataset):
    dataset.NumberOfFrames = -1
    return header_of(dataset)


def test_header_keeps_no_private_attribute_even_in_sequences():
    dataset = header()
    item = Dataset()
    item.add_new(0x00091001, "LO", "SENTINEL")
    item.CodeValue = "1"
    dataset.ProcedureCodeSequence = [item]
    dataset.add_new(0x00091002, "LO", "SENTINEL")
    kept = header_of(dataset)
    assert 0x00091002 not in kept
    assert list(kept.ProcedureCodeSequence[0].keys()) == [0x00080100]


@pytest.mark.parametrize("value", [1.0, -1 / 3, 1e-7 / 3, 123456.789012345, -1.23456789e-20, 2 / 3 * 1e15])
def test_decimal_strings_fit_and_keep_ten_digits(value):
    text = decimal_string(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=2e-9)


def test_every_real_file_gives_what_its_index_says_or_is_refused(real_dicom):
    with (real_dicom / "index.tsv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == 320
    for row in rows:
        path = real_dicom / row["file"]
        if row["sop_class"] == "Raw Data Storage":
            with pytest.raises(DicomReadError, match="Raw Data Storage, not an MR image"):
                read_headers(path)
            continue
        parameters = read_headers(path).acquisition.parameters
        for name, column in INDEX_COLUMNS.items():
            expected = row[column] or None
            if expected is not None and name not in ("manufacturer", "manufacturer_model", "scan_options"):
                assert getattr(parameters, name) == pytest.approx(float(expected), rel=1e-9), (path, name)
            else:
                assert getattr(parameters, name) == expected, (path, name)
        assert parameters.field_strength_t == (1.5 if row["MagneticFieldStrength"].startswith("1.") else 3.0), path
