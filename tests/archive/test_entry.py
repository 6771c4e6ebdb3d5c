import museum
import pytest

from cfmri_core.archive.index import Reason, index_archive, read_entry
from cfmri_core.errors import DicomReadError


def reasons(archive, **options):
    return [entry.reason for entry in index_archive(archive, workers=1, **options)]


def only(archive):
    (entry,) = index_archive(archive, workers=1)
    return entry


@pytest.mark.parametrize(
    ("attributes", "reason", "line"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, Reason.NOT_MR, "CT Image Storage"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER, "localizer"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MPR"]}, Reason.DERIVED, "derived"),
        ({"ImageType": ["ORIGINAL", "SECONDARY", "SUB"]}, Reason.DERIVED, "secondary"),
        ({"count": 2}, Reason.TOO_FEW_SLICES, "2 images"),
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED, "monochrome"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, Reason.UNSUPPORTED, "mosaic"),
        ({"NumberOfFrames": 2}, Reason.UNSUPPORTED, "holds 2 frames"),
        ({"PixelData": None}, Reason.DAMAGED, "no pixel data"),
        ({"ImagePositionPatient": None}, Reason.IRREGULAR, "ImagePositionPatient is absent"),
        ({"ImagePositionPatient": ["0", "0", "0"]}, Reason.SEVERAL_VOLUMES, "4 images at 1 positions"),
        ({"SOPInstanceUID": "1.2.3"}, Reason.DAMAGED, "one SOPInstanceUID"),
    ],
)
def test_series_that_cannot_be_used_says_why(archive, write, attributes, reason, line):
    write("s", 1, **attributes)
    entry = only(archive)
    assert entry.reason is reason
    assert line in entry.refusal
    with pytest.raises(DicomReadError, match=entry.key):
        read_entry(archive, entry)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_images_without_an_identifier_are_left_out_with_the_reason(archive, write, keyword):
    write("s", 1, **{keyword: ""})
    refusals = {(entry.reason, entry.refusal) for entry in index_archive(archive, workers=1)}
    assert refusals == {(Reason.DAMAGED, "names no series or no instance")}


def test_own_synthetic_series_is_left_out(archive, write):
    for path in write("s", 1):
        dataset = museum.pydicom.dcmread(path)
        dataset.add_new(0x0008001C, "CS", "YES")
        dataset.save_as(path)
    assert only(archive).is_synthetic
    assert only(archive).reason is Reason.SYNTHETIC


def test_missing_slice_and_mixed_contrasts_are_irregular(archive, write):
    write("gap", 1, 6)[3].unlink()
    write("mixed", 2, 3)
    write("mixed", 2, 6, prefix="echo", EchoTime="9")
    (archive / "mixed" / "echo0.dcm").unlink()
    assert reasons(archive) == [Reason.IRREGULAR, Reason.SEVERAL_VOLUMES]


def test_dynamic_series_gives_an_entry_per_time_point(archive, write):
    for point in (1, 2, 3):
        write("dynamic", 1, prefix=f"t{point}-", TemporalPositionIdentifier=point)
    entries = list(index_archive(archive, workers=1))
    assert [entry.shape for entry in entries] == [(7, 5, 4)] * 3
    assert len({entry.key for entry in entries}) == 3
    assert {entry.series_instance_uid for entry in entries} == {"1.2.9.1"}
    assert read_entry(archive, entries[1]).volume.shape == (7, 5, 4)
    (archive / "dynamic" / "t3-2.dcm").unlink()
    assert reasons(archive) == [Reason.SEVERAL_VOLUMES]


def test_content_changes_when_images_come_or_go_and_not_when_files_move(archive, write):
    files = write("one", 1, 5)
    content = only(archive).content
    files[0].rename(archive / "moved.dcm")
    assert only(archive).content == content
    files[4].unlink()
    assert only(archive).content not in (content, None)


def test_copies_are_left_aside_and_conflicts_refused(archive, write):
    for path in write("one", 1):
        (archive / f"copy-{path.name}").write_bytes(path.read_bytes())
    entry = only(archive)
    assert (entry.duplicates, entry.images, entry.refusal) == (4, 4, None)
    changed = (archive / "copy-2.dcm").read_bytes()
    (archive / "copy-2.dcm").write_bytes(changed[:-1] + b"\x01")
    assert only(archive).reason is Reason.DAMAGED


def test_many_files_of_one_instance_are_not_compared_with_each_other(archive, write, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "cfmri_core.archive.entry._are_equal", lambda root, one, other: compared.append(one) or one == other
    )
    write("s", 1, 9, SOPInstanceUID="1.2.3")
    assert only(archive).reason is Reason.DAMAGED
    assert len(compared) == 1


def test_damaged_file_in_the_folder_of_one_series_counts_against_it(archive, write):
    write("alone", 1)[0].write_bytes(b"no longer DICOM")
    write("shared", 2)
    write("shared", 3, prefix="other")
    (archive / "shared" / "broken.dcm").write_bytes(b"")
    assert reasons(archive) == [Reason.DAMAGED, None, None, Reason.DAMAGED, Reason.DAMAGED]


def test_compressed_bombs_are_refused_before_decoding(archive):
    museum.compressed_bomb(archive)
    assert "cannot hold" in only(archive).refusal
    museum.compressed_bomb(archive, museum.JPEGBaseline8Bit)
    assert only(archive).reason is Reason.DAMAGED
