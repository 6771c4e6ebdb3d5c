import os
import tracemalloc
import zlib

import pytest
from phantoms import affine_of, distinct_voxels, rotation, save, slice_dataset
from pydicom.dataset import Dataset

from cfmri_core.dicom import parser
from cfmri_core.errors import DicomReadError, GeometryError, UnsupportedImageError

DEFLATED = b"1.2.840.10008.1.2.1.99"


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "one.dcm", slice_dataset(distinct_voxels(), affine_of(rotation(0, 0, 0)), 0))


def test_reads_a_file(file):
    assert parser.parse_file(file).EchoTime == 2.81
    assert parser.is_dicom_file(file)


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 99])
def test_what_is_not_dicom_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "other.dcm"
    path.write_bytes(content)
    with pytest.raises(DicomReadError, match=r"other\.dcm"):
        parser.parse_file(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    for path in (tmp_path / "no.dcm", tmp_path):
        with pytest.raises(DicomReadError):
            parser.parse_file(path)
    assert not parser.is_dicom_file(tmp_path / "no.dcm")


def test_large_files_are_refused_before_parsing(file, monkeypatch):
    monkeypatch.setattr(parser, "MAX_FILE_BYTES", 100)
    with pytest.raises(DicomReadError, match="100 accepted"):
        parser.parse_file(file)


def deflated_bomb(path, padding=0, syntax=DEFLATED, vr=b"UI"):
    """Write a file of some kilobytes that inflates to 64 MiB."""
    meta = b"\x02\x00\x01\x00OB\0\0" + padding.to_bytes(4, "little") + bytes(padding)
    meta += b"\x02\x00\x10\x00" + vr + len(syntax).to_bytes(2, "little") + syntax
    pixels = b"\xe0\x7f\x10\x00OB\0\0" + (2**26).to_bytes(4, "little") + bytes(2**26)
    path.write_bytes(bytes(128) + b"DICM" + meta + zlib.compress(pixels)[2:-4])
    return path


@pytest.mark.parametrize(
    "bomb",
    [
        {},
        {"padding": 3000},
        {"padding": 10**6},
        {"vr": b"LO", "syntax": b"1.2.840.10008\x1b(B.1.2.1.99 "},  # pydicom drops the escape sequence
    ],
)
@pytest.mark.parametrize("read", [parser.parse_file, parser.parse_header])
def test_deflated_files_are_refused_because_they_inflate_without_limit(tmp_path, bomb, read):
    path = deflated_bomb(tmp_path / "bomb.dcm", **bomb)
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedImageError, match=r"bomb\.dcm: the deflated"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "error", [ValueError("SENTINEL"), KeyError("SENTINEL"), RecursionError(), MemoryError(), OSError()]
)
def test_every_exception_becomes_one_line_without_values(tmp_path, error):
    with pytest.raises(DicomReadError) as caught, parser.parser_errors(tmp_path / "x"):
        raise error
    assert "SENTINEL" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_own_errors_pass_through(tmp_path):
    with pytest.raises(GeometryError, match="as it is"), parser.parser_errors(tmp_path):
        raise GeometryError("as it is")


def test_values_as_text_and_numbers():
    dataset = Dataset()
    dataset.ScanOptions = ["PFP", "FS"]
    dataset.EchoTime = "2.810"
    dataset.Rows = 7
    dataset.ImageComments = "x" * 5000
    dataset.Manufacturer = " GE\x00 "
    assert parser.text_of(dataset, "ScanOptions") == "PFP\\FS"
    assert parser.text_of(dataset, "EchoTime") == "2.810"
    assert parser.text_of(dataset, "Manufacturer") == "GE"
    assert parser.text_of(dataset, "ImageComments") is None
    assert parser.text_of(dataset, "FlipAngle") is None
    assert parser.numbers_of(dataset, "EchoTime") == (2.81,)
    assert parser.numbers_of(dataset, "Manufacturer") == ()
    assert parser.integer_of(dataset, "Rows") == 7
    assert parser.integer_of(dataset, "EchoTime") is None
    assert parser.number_of(dataset, "FlipAngle") is None
    assert parser.items_of(dataset, "SourceImageSequence") == []


def test_header_is_read_without_its_pixels(file):
    dataset, pixel_bytes = parser.parse_header(file)
    assert "PixelData" not in dataset
    assert pixel_bytes == len(parser.parse_file(file).PixelData)
    file.write_bytes(file.read_bytes()[:-4])
    assert parser.parse_header(file)[1] is None


def test_pipe_is_no_dicom_file_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not parser.is_dicom_file(tmp_path / "pipe")
    for read in (parser.parse_file, parser.parse_header):
        with pytest.raises(DicomReadError, match="not a regular file"):
            read(tmp_path / "pipe")
