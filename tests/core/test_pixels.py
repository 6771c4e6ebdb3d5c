import struct

import museum
import numpy as np
import pydicom
import pytest
from phantoms import affine_of, distinct_voxels, save, set_pixels, slice_dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from cfmri_core.dicom import pixels
from cfmri_core.dicom.parser import parse_file
from cfmri_core.errors import DicomReadError, UnsupportedImageError

ENCODINGS = ("emri_small_RLE", "emri_small_big_endian", "emri_small_jpeg_2k_lossless", "emri_small_jpeg_ls_lossless")


@pytest.fixture
def image(tmp_path):
    path = save(tmp_path / "x.dcm", slice_dataset(distinct_voxels(), affine_of(np.eye(3)), 1))
    return parse_file(path)


def test_values_are_rows_by_columns(image):
    assert np.array_equal(pixels.stored_values(image)[0], distinct_voxels()[:, :, 1].T)


def test_signed_values(tmp_path):
    dataset = slice_dataset(distinct_voxels(), affine_of(np.eye(3)), 0)
    set_pixels(dataset, np.array([[-5, 7], [32767, -32768]], dtype=np.int16))
    values = pixels.stored_values(parse_file(save(tmp_path / "x.dcm", dataset)))
    assert values[0].tolist() == [[-5, 7], [32767, -32768]]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLosslessSV1, JPEG2000Lossless])
@pytest.mark.parametrize(("dtype", "value"), [(np.uint16, 0x0ABC), (np.int16, -3)])
def test_overlays_in_spare_bits_are_cleared(tmp_path, dtype, value, syntax):
    dataset = slice_dataset(distinct_voxels(), affine_of(np.eye(3)), 0)
    stored = (np.full((8, 8), value).astype(np.uint16) & 0x0FFF) | 0x5000
    path = museum.compressed(tmp_path / "x.dcm", dataset, stored, syntax)
    image = pydicom.dcmread(path)
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, int(dtype == np.int16)
    image.save_as(path)
    values = pixels.stored_values(parse_file(path))
    assert values.dtype == dtype
    assert (values == value).all()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PixelData": None}, "no pixel data"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ({"PhotometricInterpretation": "RGB"}, "monochrome"),
        ({"SamplesPerPixel": 3}, "monochrome"),
        ({"Rows": 0}, "not accepted"),
        ({"Rows": 60000, "Columns": 60000}, "not accepted"),
        ({"NumberOfFrames": 10**9}, "not accepted"),
        ({"NumberOfFrames": 2}, "single-frame MR image that holds 2 frames"),
        ({"Rows": 500}, "cut short"),
        ({"Rows": 4}, "too long"),
        ({"BitsAllocated": 32}, "bit depth"),
        ({"HighBit": 14}, "bit depth"),
        ({"PixelRepresentation": 7}, "PixelRepresentation"),
    ],
)
def test_unusable_pixels_are_refused_with_the_reason(image, attributes, reason):
    for keyword, value in attributes.items():
        if value is None:
            del image[keyword]
        else:
            setattr(image, keyword, value)
    with pytest.raises(DicomReadError, match=reason):
        pixels.require_pixels(image)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"), [("2", "-1", (2.0, -1.0)), (None, None, (1.0, 0.0)), ("", "", (1.0, 0.0))]
)
def test_rescale(image, slope, intercept, expected):
    if slope is not None:
        image.RescaleSlope, image.RescaleIntercept = slope, intercept
    assert pixels.rescale_of(image) == expected


def test_nonsense_rescale_is_refused(image):
    image.RescaleSlope = "0"
    with pytest.raises(DicomReadError, match="RescaleSlope"):
        pixels.rescale_of(image)


def test_size_inside_compressed_frames():
    jpeg_2000 = b"\xff\x4f\xff\x51" + struct.pack(">HH4I", 41, 0, 640, 480, 0, 0)
    jpeg = b"\xff\xd8\xff\xe0" + struct.pack(">H", 4) + b"xx" + b"\xff\xf7" + struct.pack(">HBHH", 11, 12, 480, 640)
    assert pixels.codestream_size(jpeg_2000) == (480, 640)
    assert pixels.codestream_size(jpeg) == (480, 640)
    for junk in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\xff\x4f\xff\x51"):
        with pytest.raises((struct.error, AssertionError)):
            assert pixels.codestream_size(junk) == (480, 640)


def test_every_encoding_of_one_image_decodes_alike(real_dicom):
    folder = real_dicom / "pydicom-data/data_store/data"
    plain = pixels.stored_values(parse_file(folder / "emri_small.dcm"))
    assert plain.shape == (10, 64, 64)
    assert plain.std() > 0
    for name in ENCODINGS:
        assert np.array_equal(pixels.stored_values(parse_file(folder / f"{name}.dcm")), plain), name
    for kind, uncompressed in (("J2KR", "UNCR"), ("J2KI", "UNCI")):
        compressed = pixels.stored_values(parse_file(folder / f"MR2_{kind}.dcm"))
        assert np.array_equal(compressed, pixels.stored_values(parse_file(folder / f"MR2_{uncompressed}.dcm")))


def test_cut_jpeg_2000_file_is_refused(real_dicom):
    path = real_dicom / "pydicom-data/data_store/data/emri_small_jpeg_2k_lossless_too_short.dcm"
    with pytest.raises(DicomReadError, match="no pixel data"):
        pixels.stored_values(parse_file(path))


def test_frame_of_another_size_than_the_header_is_refused_before_decoding(real_dicom):
    for name in ("emri_small_jpeg_2k_lossless", "emri_small_jpeg_ls_lossless"):
        dataset = parse_file(real_dicom / f"pydicom-data/data_store/data/{name}.dcm")
        dataset.Rows = 32
        with pytest.raises(DicomReadError, match="another size"):
            pixels.stored_values(dataset)


def test_compressed_bytes_too_few_for_the_size_are_refused_before_decoding(image):
    header = {
        name: str(image[name].value) for name in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated")
    }
    header |= {"BitsStored": "16", "HighBit": "15", "PixelRepresentation": "0", "Rows": "16000", "Columns": "16000"}
    with pytest.raises(DicomReadError, match="70 compressed bytes cannot hold"):
        pixels.require_pixel_format(header, pixels.RLE_TRANSFER_SYNTAX, 70)
    pixels.require_pixel_format(header | {"Rows": "512", "Columns": "512"}, pixels.RLE_TRANSFER_SYNTAX, 70)


def test_transfer_syntax_that_nothing_decodes_is_unsupported(image):
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(UnsupportedImageError, match="transfer syntax"):
        pixels.require_pixels(image)


def test_pixel_data_shorter_than_the_file_says_are_refused(tmp_path):
    path = save(tmp_path / "x.dcm", slice_dataset(distinct_voxels(), affine_of(np.eye(3)), 1))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"OW\0\0\x46\0\0\0", b"OW\0\0\x46\0\0\x10"))
    with pytest.raises(DicomReadError, match="cut short"):
        pixels.require_pixels(parse_file(path))
