import copy
import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from phantoms import (
    LPS,
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
from validator import complaints

from cfmri_core.dicom.derive import SYNTHETIC_DATA, PixelScale, box_in, write_derived_series
from cfmri_core.dicom.parser import text_of
from cfmri_core.dicom.read import read_headers, read_series
from cfmri_core.errors import DicomReadError, GeometryError, RequestError
from cfmri_core.volume import Volume

VOXELS = distinct_voxels()
AFFINE = affine_of(rotation(4, 9, -17) @ np.diag([-1.0, -1.0, 1.0]))
EVIDENCE = {"model": {"sha256": "ab" * 32}, "method": "inversion", "seed": 7, "steps": 20}
CHANGES = {"echo_time_ms": 1.4, "field_strength_t": 3.0, "scan_options": "FAST_GEMS\\FS", "manufacturer": "GE"}


@pytest.fixture
def source(tmp_path):
    return read_series(write_series(tmp_path / "source", VOXELS, AFFINE))


def counterfactual(source, seed=0):
    noise = np.random.default_rng(seed).normal(0, 3, source.volume.shape)
    return source.volume.with_voxels((source.volume.voxels * 1.7 + noise).astype(np.float32))


def derive(source, folder, changes=CHANGES, volume=None, evidence=EVIDENCE):
    requested = source.acquisition.parameters.replaced(changes)
    return write_derived_series(folder, source, volume or counterfactual(source), requested, evidence)


def images(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def test_derived_series_reads_back_on_the_same_grid(source, tmp_path):
    volume = counterfactual(source)
    result = read_series(derive(source, tmp_path / "out", volume=volume))
    assert result.volume.has_same_grid(source.volume, 1e-6)
    assert np.abs(result.volume.voxels - volume.voxels).max() <= 1e-5 * np.ptp(volume.voxels)
    assert json.loads((tmp_path / "out/evidence.json").read_text())["seed"] == 7


def test_unchanged_voxels_come_back_within_a_thousandth_of_the_range(source, tmp_path):
    result = read_series(derive(source, tmp_path / "out", {}, source.volume))
    assert np.abs(result.volume.voxels - source.volume.voxels).max() < 1e-4 * np.ptp(source.volume.voxels)


def test_markings_of_a_synthetic_object(source, tmp_path):
    derived = images(derive(source, tmp_path / "out"))
    for image, header in zip(derived, source.headers, strict=True):
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "M"]
        assert image[SYNTHETIC_DATA].value == "YES"
        assert image[SYNTHETIC_DATA].VR == "CS"
        assert image.SeriesDescription.startswith("SYNTHETIC CF TE=1.4ms")
        assert image.SeriesDescription.endswith("(not for diagnosis)")
        assert image.SeriesNumber >= 9000
        assert "factual" in image.DerivationDescription.lower()
        assert "DerivationCodeSequence" not in image
        assert image.BurnedInAnnotation == "NO"
        assert image.preamble == b"\0" * 128
        reference = image.SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        equipment = image.ContributingEquipmentSequence[-1]
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert equipment.Manufacturer == "cfmri"
        assert equipment.DeviceUID.startswith("2.25.")
        assert equipment.ContributionDateTime
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert image.InstanceNumber == header.InstanceNumber


def test_what_is_kept_and_what_is_new(source, tmp_path):
    derived = images(derive(source, tmp_path / "out"))
    for image, header in zip(derived, source.headers, strict=True):
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient",
                        "PixelSpacing", "PatientName", "PatientID", "AcquisitionDate", "StudyDate"):  # fmt: skip
            assert image[keyword].value == header[keyword].value
        assert image.SOPInstanceUID.startswith("2.25.")
        assert image.SeriesInstanceUID.startswith("2.25.")
        assert image.ContentDate == image.SeriesDate == image.InstanceCreationDate != header.StudyDate
    assert len({image.SOPInstanceUID for image in derived}) == len(derived)
    assert len({image.SeriesInstanceUID for image in derived}) == 1


def test_requested_values_in_the_image_module_factual_ones_in_the_equipment_module(source, tmp_path):
    image = images(derive(source, tmp_path / "out"))[0]
    assert (image.EchoTime, image.MagneticFieldStrength, list(image.ScanOptions)) == (1.4, 3.0, ["FAST_GEMS", "FS"])
    assert image.RepetitionTime == 5.53
    assert (image.Manufacturer, image.ManufacturerModelName) == ("SIEMENS", "Avanto")
    for part in (
        "echo_time_ms=1.4",
        "echo_time_ms=2.81",
        "manufacturer=GE",
        "manufacturer=SIEMENS",
        "seed 7",
        "ab" * 32,
    ):
        assert part in image.DerivationDescription


def test_unchanged_field_strength_keeps_its_raw_value(source, tmp_path):
    image = images(derive(source, tmp_path / "out", {"echo_time_ms": 1.4}))[0]
    assert text_of(image, "MagneticFieldStrength") == "1.494"


def test_identifiers_are_the_same_in_a_second_run(source, tmp_path):
    first, again = images(derive(source, tmp_path / "a")), images(derive(source, tmp_path / "b"))
    assert [image.SOPInstanceUID for image in first] == [image.SOPInstanceUID for image in again]
    other = images(derive(source, tmp_path / "c", evidence={**EVIDENCE, "seed": 8}))
    assert first[0].SeriesInstanceUID != other[0].SeriesInstanceUID


def test_private_tags_overlays_icons_and_signatures_are_dropped(tmp_path):
    item = Dataset()
    item.add_new(0x00091001, "LO", "PRIVATE")
    item.ReferencedSOPInstanceUID, item.ReferencedSOPClassUID = "1.2", "1.2.840.10008.5.1.4.1.1.4"
    stale = {
        "ReferencedImageSequence": [item], "IconImageSequence": [Dataset()], "DigitalSignaturesSequence": [Dataset()],
        "SmallestImagePixelValue": 1, "PixelPaddingValue": 0, "WindowCenter": ["1", "2"], "WindowWidth": ["3", "4"],
        "WindowCenterWidthExplanation": ["A", "B"], "ImagingFrequency": "63.6", "SAR": "1",
        "RealWorldValueMappingSequence": [Dataset()], "SpecificCharacterSet": "ISO_IR 100",
        "LossyImageCompression": "01", "RescaleSlope": "3", "RescaleIntercept": "1",
    }  # fmt: skip
    for k in range(4):
        dataset = slice_dataset(VOXELS, AFFINE, k, stale)
        dataset.add_new(0x00091002, "LO", "PRIVATE")
        dataset.add_new(0x60000010, "US", 7)
        dataset.preamble = b"MZ" + b"\0" * 126
        save(tmp_path / "source" / f"{k}.dcm", dataset)
    source = read_series(tmp_path / "source")
    before = copy.deepcopy(source.headers)
    folder = derive(source, tmp_path / "out")
    for path in folder.glob("*.dcm"):
        assert b"PRIVATE" not in path.read_bytes()
        assert path.read_bytes()[:128] == b"\0" * 128
    image = images(folder)[0]
    for keyword in ("IconImageSequence", "DigitalSignaturesSequence", "PixelPaddingValue", "SAR",
                    "WindowCenterWidthExplanation", "ImagingFrequency", "RealWorldValueMappingSequence"):  # fmt: skip
        assert keyword not in image
    assert 0x60000010 not in image
    assert image.SpecificCharacterSet == "ISO_IR 100"
    assert image.LossyImageCompression == "01"
    assert image["WindowCenter"].VM == 1
    assert image.SmallestImagePixelValue == image.pixel_array.min()
    assert image.LargestImagePixelValue == image.pixel_array.max()
    assert source.headers == before


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Ωmega^Ψ"])
def test_texts_of_other_alphabets_survive(tmp_path, name):
    charset = {"M": "ISO_IR 100", "Ω": "ISO_IR 126"}[name[0]]
    attributes = {"SpecificCharacterSet": charset, "PatientName": name}
    source = read_series(write_series(tmp_path / "source", VOXELS, AFFINE, attributes))
    image = images(derive(source, tmp_path / "out"))[0]
    assert str(image.PatientName) == name
    assert image.SpecificCharacterSet == charset


def test_source_whose_header_cannot_be_written_is_named(tmp_path):
    number = b"\x20\x00\x12\x00IS\x04\x00"  # AcquisitionNumber
    for k in range(2):
        attributes = {"SpecificCharacterSet": "ISO_IR 13", "AcquisitionNumber": 1111}
        path = save(tmp_path / "source" / f"{k}.dcm", slice_dataset(VOXELS, AFFINE, k, attributes))
        content = path.read_bytes()
        assert number + b"1111" in content
        path.write_bytes(content.replace(number + b"1111", number + b"\xc3\xa9\xc3\xa9"))
    with pytest.raises(DicomReadError, match=r"source: damaged or unsupported DICOM \(TypeError\)"):
        derive(read_series(tmp_path / "source"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_enhanced_source_gives_classic_images(tmp_path):
    source = read_series(write_enhanced(tmp_path / "e.dcm", VOXELS, AFFINE))
    volume = counterfactual(source)
    folder = derive(source, tmp_path / "out", volume=volume)
    result = read_series(folder)
    assert result.volume.has_same_grid(source.volume, 1e-6)
    assert np.abs(result.volume.voxels - volume.voxels).max() <= 1e-5 * np.ptp(volume.voxels)
    for image, number in zip(images(folder), source.frame_numbers, strict=True):
        assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
        assert "NumberOfFrames" not in image
        assert "SharedFunctionalGroupsSequence" not in image
        assert image.SourceImageSequence[0].ReferencedFrameNumber == number
        assert image.ScanningSequence == "GR"
        assert (image.EchoTime, image.RepetitionTime, image.FlipAngle) == (1.4, 5.53, 10)
    assert len({image.SOPInstanceUID for image in images(folder)}) == 4


@pytest.mark.parametrize("box", [(slice(0, 7), slice(0, 5), slice(1, 3)), (slice(2, 6), slice(1, 5), slice(0, 4))])
def test_slab_lies_where_it_was_cut(source, tmp_path, box):
    first = np.array([part.start for part in box])
    affine = source.volume.affine.copy()
    affine[:3, 3] = (affine @ [*first, 1])[:3]
    slab = Volume(np.ascontiguousarray(source.volume.voxels[box]), affine)
    assert box_in(source.volume, slab) == tuple(first)
    folder = derive(source, tmp_path / "out", volume=slab)
    assert read_series(folder).volume.has_same_grid(slab)
    expected = source.headers[first[2]].SOPInstanceUID
    assert images(folder)[0].SourceImageSequence[0].ReferencedSOPInstanceUID == expected


def test_volume_on_another_grid_is_refused(source, tmp_path):
    for change in (np.diag([1.1, 1, 1, 1]), np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])):
        other = Volume(source.volume.voxels, source.volume.affine @ change)
        with pytest.raises(GeometryError, match="grid of the input"):
            derive(source, tmp_path / "out", volume=other)
    assert not (tmp_path / "out").exists()


def test_nothing_is_lost_from_a_folder_in_use(source, tmp_path):
    (tmp_path / "out").mkdir()
    derive(source, tmp_path / "out")
    with pytest.raises(RequestError, match="exists already"):
        derive(source, tmp_path / "out")
    assert len(images(tmp_path / "out")) == 4
    with pytest.raises(RequestError):
        derive(source, tmp_path / "out" / "0001.dcm")


@pytest.mark.parametrize(
    "voxels",
    [np.array([-3.5, 0.0, 1e4]), np.array([7.0, 7.0, 7.0]), np.array([0.0, 1e-6, 3e-6]), np.array([1e6, 1e6 + 1, 2e6])],
)
def test_pixel_scale_keeps_float_precision(voxels):
    scale = PixelScale.of(voxels)
    restored = scale.store(voxels) * scale.slope + scale.intercept
    assert np.abs(restored - voxels).max() <= 0.51 * scale.slope * (np.ptp(voxels) > 0) + 1e-9 * np.abs(voxels).max()
    if voxels[0] <= 0 <= voxels[-1]:
        assert abs(restored[voxels == 0]).max(initial=0) < 1e-6 * np.ptp(voxels)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.25, -12.5), (2.0, 100.0)])
def test_the_sources_own_scale_keeps_its_stored_values(source, tmp_path, slope, intercept):
    headers = [copy.deepcopy(header) for header in source.headers]
    for header in headers:
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
    volume = source.volume.with_voxels((source.volume.voxels * slope + intercept).astype(np.float32))
    rescaled = dataclasses.replace(source, headers=tuple(headers), volume=volume)
    scale = PixelScale.of_source(rescaled, volume.voxels)
    stored = scale.store(volume.voxels)
    lowest = min(0, source.volume.voxels.min())
    assert np.array_equal(stored, source.volume.voxels - lowest)
    assert scale.slope == slope
    requested = rescaled.acquisition.parameters
    written = write_derived_series(tmp_path / "out", rescaled, volume, requested, EVIDENCE, scale)
    assert np.array_equal(read_series(written).volume.voxels, volume.voxels)


def simple_itk_volume(folder):
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, LPS @ affine


def dcm2niix_volume(folder, output):
    program = shutil.which("dcm2niix", path=f"{Path(shutil.sys.executable).parent}:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    nibabel = pytest.importorskip("nibabel")
    output.mkdir()
    subprocess.run([program, "-z", "n", "-b", "n", "-f", "x", "-o", output, folder], check=True, capture_output=True)
    (path,) = output.glob("*.nii")
    image = nibabel.load(path)
    return image.get_fdata(), image.affine


def assert_reads_alike(folder, volume, tmp_path):
    tolerance = 2e-5 * float(np.ptp(volume.voxels))
    assert_same_image(volume.voxels, volume.affine, *simple_itk_volume(folder), tolerance)
    assert_same_image(volume.voxels, volume.affine, *dcm2niix_volume(folder, tmp_path / "converted"), tolerance)


@pytest.mark.parametrize("number", [0, 5, 13, 22, 31, 47])
def test_derived_series_reads_alike_elsewhere(tmp_path, number):
    affine = affine_of(rotation(6, -11, 17) @ list(orientations())[number])
    source = read_series(write_series(tmp_path / "source", distinct_voxels((12, 10, 6)), affine))
    volume = counterfactual(source)
    assert_reads_alike(derive(source, tmp_path / "out", volume=volume), volume, tmp_path)


def test_every_orientation_round_trips(tmp_path):
    for number, directions in enumerate(orientations()):
        affine = affine_of(rotation(-3, 14, 8) @ directions, spacing=(0.7, 1.9, 3.3))
        source = read_series(write_series(tmp_path / f"s{number}", VOXELS, affine))
        result = read_series(derive(source, tmp_path / f"d{number}", volume=source.volume))
        assert_same_image(VOXELS, affine, result.volume.voxels, result.volume.affine, 0.01)


def test_validator_knows_of_no_error_but_the_new_tag(source, tmp_path):
    for path in derive(source, tmp_path / "out").glob("*.dcm"):
        assert complaints(path) == []


def test_real_head_reads_alike_elsewhere(real_dicom, tmp_path):
    source = read_series(real_dicom / "philips_t1_head")
    folder = derive(source, tmp_path / "out", {"echo_time_ms": 1.4, "field_strength_t": 1.5}, source.volume)
    result = read_series(folder)
    assert result.volume.has_same_grid(source.volume)
    assert np.abs(result.volume.voxels - source.volume.voxels).max() < 1e-3 * np.ptp(source.volume.voxels)
    assert result.acquisition.parameters.echo_time_ms == 1.4
    tolerance = 2e-5 * float(np.ptp(source.volume.voxels))
    volume = result.volume
    assert_same_image(volume.voxels, volume.affine, *simple_itk_volume(folder), tolerance)
    # dcm2niix extrapolates from the first two slices, which carries their rounding to 1.3e-3 mm at the last one
    converted, affine = dcm2niix_volume(folder, tmp_path / "converted")
    assert_same_image(volume.voxels, volume.affine, converted, affine, tolerance, tolerance_mm=2e-3)
    _, affine_of_source = dcm2niix_volume(real_dicom / "philips_t1_head", tmp_path / "source")
    assert np.abs(affine - affine_of_source).max() < 1e-6
    new_errors = set(complaints(folder / "0085.dcm")) - set(complaints(real_dicom / "philips_t1_head/1301_0085.dcm"))
    assert all("(0x0008,0x001c)" in line for line in new_errors)


@pytest.mark.parametrize(
    "name", ["sag/2_gre_field_mapping", "cs_dl/Philips/401_T1W_FFE_Sno_CS2", "ge/01_Ax_DWI_TENSOR_R2"]
)
def test_validator_on_derived_real_series(real_dicom, tmp_path, name):
    source = read_series(real_dicom / f"dcm_qa_{name}")
    slab = Volume(source.volume.voxels[:, :, :1], source.volume.affine)
    (path,) = derive(source, tmp_path / "out", volume=slab).glob("*.dcm")
    known = set(complaints(read_headers(real_dicom / f"dcm_qa_{name}").frames[0].path))
    assert [line for line in complaints(path) if "(0x0008,0x001c)" not in line and line not in known] == []
