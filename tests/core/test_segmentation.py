import highdicom
import numpy as np
import pydicom
import pytest
from phantoms import LPS, affine_of, assert_same_image, orientations, rotation, write_enhanced, write_series
from validator import complaints

from cfmri_core.dicom import segmentation
from cfmri_core.dicom.parser import text_of
from cfmri_core.dicom.read import read_series
from cfmri_core.dicom.segmentation import write_segmentation
from cfmri_core.errors import DicomReadError, GeometryError
from cfmri_core.volume import Volume

SHAPE = (7, 5, 4)
LABELS = np.random.default_rng(2).integers(0, 3, SHAPE).astype(np.uint8)
AFFINE = affine_of(rotation(4, 9, -17) @ np.diag([-1.0, -1.0, 1.0]))


def source_of(folder, affine=AFFINE, attributes=None):
    return read_series(write_series(folder, LABELS.astype(np.uint16), affine, attributes))


def labels_of(source):
    return Volume(source.volume.voxels.astype(np.uint8), source.volume.affine)


def decoded(path):
    """Return labels and RAS affine of a SEG, from its own geometry alone."""
    segmentation = pydicom.dcmread(path)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    rows, columns = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    pixels = segmentation.pixel_array
    positions = {}
    for number, group in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        place = tuple(np.array(group.PlanePositionSequence[0].ImagePositionPatient, float))
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        image = positions.setdefault(place, np.zeros(pixels.shape[1:], np.uint8))
        image[pixels[number] > 0] = segment
    normal = np.cross(rows, columns)
    places = sorted(positions, key=lambda place: np.dot(place, normal))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows * spacing[1], columns * spacing[0]
    affine[:3, 2] = (np.array(places[-1]) - places[0]) / (len(places) - 1)
    affine[:3, 3] = places[0]
    return np.stack([positions[place].T for place in places], axis=2), LPS @ affine


@pytest.mark.parametrize("number", [*range(0, 48, 7), 46])
def test_labels_lie_on_the_image_in_every_orientation(tmp_path, number):
    affine = affine_of(rotation(6, -11, 17) @ list(orientations())[number])
    source = source_of(tmp_path / "s", affine)
    path = write_segmentation(tmp_path / "out.dcm", source, labels_of(source))
    assert_same_image(LABELS, affine, *decoded(path))


def test_segments_are_coded_and_background_is_none(tmp_path):
    source = source_of(tmp_path / "s", attributes={"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Ä"})
    path = write_segmentation(tmp_path / "out.dcm", source, labels_of(source))
    segmentation = highdicom.seg.segread(path)
    assert segmentation.number_of_segments == 2
    described = [segmentation.get_segment_description(number) for number in (1, 2)]
    assert [item.segment_label for item in described] == ["fat", "fibroglandular tissue"]
    assert [item.segmented_property_type.value for item in described] == ["89749009", "1342375003"]
    assert {item.segmented_property_type.scheme_designator for item in described} == {"SCT"}
    assert {item.segmented_property_category.value for item in described} == {"85756007"}
    assert {item.algorithm_type.value for item in described} == {"AUTOMATIC"}
    assert described[0].anatomic_regions[0].value == "76752008"
    assert segmentation.SpecificCharacterSet == "ISO_IR 100"
    assert str(segmentation.PatientName) == "Müller^Ä"
    assert segmentation.StudyInstanceUID == source.headers[0].StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == source.headers[0].FrameOfReferenceUID
    assert "not for diagnosis" in segmentation.SeriesDescription


def test_enhanced_source_is_referred_to_by_frame(tmp_path):
    source = read_series(write_enhanced(tmp_path / "e.dcm", LABELS.astype(np.uint16), AFFINE))
    labels = Volume((source.volume.voxels * 2 + 6).astype(np.uint8), source.volume.affine)
    path = write_segmentation(tmp_path / "out.dcm", source, labels)
    assert_same_image(LABELS, AFFINE, *decoded(path))
    segmentation = pydicom.dcmread(path)
    assert len(segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    places = {
        number: list(header.ImagePositionPatient)
        for number, header in zip(source.frame_numbers, source.headers, strict=True)
    }
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert places[reference.ReferencedFrameNumber] == list(group.PlanePositionSequence[0].ImagePositionPatient)


def test_slab_and_empty_labels(tmp_path):
    source = source_of(tmp_path / "s")
    affine = source.volume.affine.copy()
    affine[:3, 3] = (affine @ (0, 0, 1, 1))[:3]
    slab = Volume(np.full((7, 5, 2), 2, np.uint8), affine)
    path = write_segmentation(tmp_path / "slab.dcm", source, slab)
    assert len(pydicom.dcmread(path).PerFrameFunctionalGroupsSequence) == 2
    empty = Volume(np.zeros(SHAPE, np.uint8), source.volume.affine)
    assert pydicom.dcmread(write_segmentation(tmp_path / "empty.dcm", source, empty)).pixel_array.max() == 0


def test_same_labels_have_the_same_identifiers_until_the_software_changes(tmp_path, monkeypatch):
    source = source_of(tmp_path / "s")

    def uid(name):
        return pydicom.dcmread(write_segmentation(tmp_path / name, source, labels_of(source))).SOPInstanceUID

    first = uid("a.dcm")
    assert first.startswith("2.25.")
    assert first == uid("b.dcm")
    monkeypatch.setattr(segmentation, "__version__", "99")
    assert first != uid("c.dcm")


@pytest.mark.parametrize(
    "attributes",
    [
        {"SliceThickness": None},
        {"SliceThickness": ""},
        {"PatientSex": "U"},
        {"PatientSex": "X"},
        {"PatientSex": "m"},
        {"PatientBirthDate": "00000000"},
        {"PatientBirthDate": "19000000"},
        {"PatientBirthDate": "1970"},
        {"StudyDate": "00000000"},
        {"StudyTime": "240000"},
        {"StudyTime": "10:11:12"},
        {"PatientID": None, "PatientSex": None, "StudyDate": None},
        {"LossyImageCompression": "01"},
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # on writing the source
def test_headers_as_archives_have_them_keep_their_values(tmp_path, attributes):
    source = source_of(tmp_path / "s", attributes=attributes)
    written = pydicom.dcmread(write_segmentation(tmp_path / "out.dcm", source, labels_of(source)))
    for keyword in ("PatientID", "PatientSex", "PatientBirthDate", "StudyDate", "StudyTime", "LossyImageCompression"):
        assert text_of(written, keyword) == text_of(source.headers[0], keyword) or keyword not in source.headers[0]
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(2.5 if "SliceThickness" in attributes else 2)
    assert highdicom.seg.Segmentation.from_dataset(written).pixel_array.any()


def test_source_that_cannot_be_written_is_named_and_not_the_output(tmp_path):
    source = source_of(tmp_path / "source")
    for header in source.headers:
        header.add_new("PatientComments", "LT", object())
    with pytest.raises(DicomReadError, match=r"source: damaged or unsupported DICOM"):
        write_segmentation(tmp_path / "out.dcm", source, labels_of(source))


def test_other_grids_and_values_are_refused(tmp_path):
    source = source_of(tmp_path / "s")
    with pytest.raises(GeometryError, match="grid"):
        write_segmentation(tmp_path / "a.dcm", source, Volume(LABELS, np.eye(4)))
    with pytest.raises(GeometryError, match="Labels other than"):
        write_segmentation(tmp_path / "a.dcm", source, Volume(LABELS + 1, source.volume.affine))
    assert not (tmp_path / "a.dcm").exists()


def test_validator_finds_no_error(tmp_path):
    source = source_of(tmp_path / "s")
    path = write_segmentation(tmp_path / "out.dcm", source, labels_of(source))
    assert complaints(path) == []
