"""A tree in the exact layout of Duke-Breast-Cancer-MRI: found, read, reported on, and refused in one line."""

import numpy as np
import pytest
from duke_tree import (
    CLINICAL,
    MANIFEST,
    MAPPING,
    MASKS,
    PRE,
    add_patient,
    clinical_rows,
    coded,
    mapping_rows,
    write_csv,
    write_masks,
    write_workbook,
)
from phantoms import affine_of, distinct_voxels, rotation, write_series

from cfmri_core.cli import main
from cfmri_core.data import duke
from cfmri_core.data.duke import survey_duke
from cfmri_core.data.studies import is_study, list_studies, load_slices, read_labels, survey
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.study import StudyPlan, simulate_dataset

AVANTO = {
    "Manufacturer": "2",
    "Manufacturer Model Name": "0",
    "Scan Options": "2",
    "Field Strength (Tesla)": "0",
    "TR (Repetition Time)": "5.53",
    "TE (Echo Time)": "2.81",
    "Slice Thickness ": "6",
    "Flip Angle \n": "1",
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    simulate_dataset(root, 3, 60, StudyPlan(slab_mm=8))
    return root


@pytest.fixture(scope="module")
def tree(simulated, tmp_path_factory):
    """Three simulated patients and one without images; masks of the first two, cropped as 3D Slicer crops them."""
    root = tmp_path_factory.mktemp("duke")
    cells = {}
    for number in (1, 2, 3):
        patient, source = f"Breast_MRI_{number:03d}", simulated / f"sub-{number:04d}"
        parameters = read_scan(add_patient(root, patient, source / "dicom")).acquisition.parameters
        cells[patient] = {
            "Manufacturer": coded("Manufacturer", parameters.manufacturer),
            "Manufacturer Model Name": coded("Manufacturer Model Name", parameters.manufacturer_model),
            "Field Strength (Tesla)": {1.5: "0", 3.0: "2"}[parameters.field_strength_t],
            "TE (Echo Time)": f"{parameters.echo_time_ms:.2f}",
        }
        if number < 3:
            labels = read_nifti(source / "labels.nii.gz")
            used = np.argwhere(labels.voxels > 0)
            low, high = used.min(axis=0), used.max(axis=0) + 1
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            affine = labels.affine.copy()
            affine[:3, 3] += affine[:3, :3] @ low
            write_masks(root / MASKS / patient, labels.voxels[box], affine, patient, dense_value=number)
    cells["Breast_MRI_004"] = {}
    (root / MANIFEST / "Breast_MRI_004" / "a study" / "2.000000-ax t1-58582").mkdir(parents=True)
    write_csv(root / "tables" / f"{CLINICAL}.csv", clinical_rows(cells))
    write_csv(root / "tables" / f"{MAPPING}.csv", mapping_rows(dict.fromkeys(cells, (PRE,))))
    return root


@pytest.fixture
def small(tmp_path):
    """Two patients with a few voxels each, whose headers say what the table says."""
    for patient in ("Breast_MRI_001", "Breast_MRI_002"):
        add_patient(tmp_path, patient, series_of(tmp_path.with_name(tmp_path.name + patient)))
    write_csv(tmp_path / f"{CLINICAL}.csv", clinical_rows(dict.fromkeys(("Breast_MRI_001", "Breast_MRI_002"), AVANTO)))
    return tmp_path


def series_of(folder, attributes=None):
    return write_series(folder, distinct_voxels(), affine_of(rotation(2, 3, 4)), attributes)


def reasons(root):
    return {remark.subject_id: remark.message for remark in survey(root).left_out}


def table_of(root, **changes):
    cells = {"Breast_MRI_001": AVANTO, "Breast_MRI_002": {**AVANTO, **changes}}
    write_csv(root / f"{CLINICAL}.csv", clinical_rows(cells))


def test_the_tree_is_listed_with_labels_and_one_remark(tree):
    catalogue = survey(tree)
    assert [study.subject_id for study in catalogue.studies] == ["Breast_MRI_001", "Breast_MRI_002", "Breast_MRI_003"]
    assert {study.scan_path.name for study in catalogue.studies} == {PRE}
    assert [study.labels_path is not None for study in catalogue.studies] == [True, True, False]
    assert [remark.subject_id for remark in catalogue.remarks] == ["Breast_MRI_004"]
    assert catalogue.left_out == catalogue.remarks
    assert is_study(tree)


def test_each_patients_masks_are_its_own_labels(tree, simulated):
    for study, source in zip(list_studies(tree)[:2], ("sub-0001", "sub-0002"), strict=True):
        truth = read_nifti(simulated / source / "labels.nii.gz")
        assert np.array_equal(read_labels(study, read_scan(study.scan_path).volume).voxels, truth.voxels)


def test_slices_are_the_same_as_those_of_the_simulated_studies(tree, simulated):
    ours = load_slices(list_studies(tree)[:2], 64, with_labels=True)
    theirs = load_slices(list_studies(simulated)[:2], 64, with_labels=True)
    assert np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.labels, theirs.labels)
    assert ours.patients == ("Breast_MRI_001", "Breast_MRI_002")
    for mine, header in zip(ours.parameters, theirs.parameters, strict=True):
        assert mine.replaced({"echo_time_ms": None}) == header.replaced({"echo_time_ms": None})
        assert mine.echo_time_ms == round(header.echo_time_ms, 2)


def test_a_segmenter_trains_on_the_tree_and_says_who_is_left_out(tree, tmp_path, capsys):
    arguments = ["train", "segmenter", str(tree), "--output", str(tmp_path), "--iterations", "2", "--batch-size", "2"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--device", "cpu"])
    assert Segmenter.load(tmp_path / "model").image_size > 0
    said = capsys.readouterr().err
    assert "1 left out: none of the patient's series" in said
    assert "[Breast_MRI_004]" in said


def test_listing_reads_one_header_a_patient_and_no_pixel(small, monkeypatch):
    monkeypatch.setattr(duke, "HEADER_BYTES", 2048)
    for file in small.rglob("*.dcm"):
        if "pre" in file.parent.name:
            file.write_bytes(file.read_bytes()[:2048])  # of the tiny slices only the header is longer than that
    opened = []
    real = type(small).open
    monkeypatch.setattr(type(small), "open", lambda path, *a, **k: opened.append(path) or real(path, *a, **k))
    assert len(list_studies(small)) == 2
    assert len([path for path in opened if path.suffix == ".dcm"]) == 2


def test_a_header_longer_than_what_is_read_still_tells_the_parameters(small, monkeypatch):
    monkeypatch.setattr(duke, "HEADER_BYTES", 1100)
    (small / f"{CLINICAL}.csv").unlink()
    assert list_studies(small)[0].acquisition.known()


@pytest.mark.parametrize("code", ["0", "0.0", "2"])
def test_codes_are_read_by_the_legend_and_field_strength_is_nominal(small, code):
    table_of(small, **{"Field Strength (Tesla)": code, "Manufacturer Model Name": "7"})
    known = list_studies(small)[1].acquisition
    assert known.field_strength_t == (3.0 if code == "2" else 1.5)
    assert known.manufacturer_model == "TrioTim"
    assert known.scan_options == "PFP\\FS"


def test_the_table_outranks_the_header_and_says_where_they_disagree(small):
    table_of(small, **{"TE (Echo Time)": "1.4", "Manufacturer": "0", "Slice Thickness ": "6"})
    catalogue = survey(small)
    assert catalogue.studies[1].acquisition.echo_time_ms == 1.4
    assert {(remark.subject_id, remark.detail) for remark in catalogue.remarks} == {
        ("Breast_MRI_002", "table 1.4, header 2.81"),
        ("Breast_MRI_002", "table GE MEDICAL SYSTEMS, header SIEMENS"),
    }
    assert load_slices(catalogue.studies, 16).parameters[1].echo_time_ms == 1.4


@pytest.mark.parametrize("cell", ["", "NA", "nan"])
def test_a_missing_value_drops_nobody_and_the_header_fills_it(small, cell):
    table_of(small, **{"Flip Angle \n": cell})
    catalogue = survey(small)
    assert len(catalogue.studies) == 2
    assert catalogue.studies[1].acquisition.flip_angle_deg == 10.0
    assert catalogue.remarks == ()


def test_what_neither_knows_is_unknown(tmp_path):
    series = series_of(tmp_path / "series", {"FlipAngle": None})
    add_patient(tmp_path / "tree", "Breast_MRI_001", series)
    write_csv(tmp_path / "tree" / f"{CLINICAL}.csv", clinical_rows({"Breast_MRI_001": {}}))
    (study,) = list_studies(tmp_path / "tree")
    assert study.acquisition.flip_angle_deg is None
    assert study.acquisition.echo_time_ms == 2.81


@pytest.mark.parametrize(
    ("column", "cell"), [("Scan Options", "17"), ("TE (Echo Time)", "long"), ("Flip Angle \n", "x")]
)
def test_an_unknown_code_or_value_is_reported_and_the_header_is_used(small, column, cell):
    table_of(small, **{column: cell})
    (remark,) = survey(small).remarks
    assert (remark.subject_id, remark.detail, remark.is_left_out) == ("Breast_MRI_002", cell, False)
    assert "clinical table holds" in remark.message
    assert list_studies(small)[1].acquisition.scan_options == "PFP\\FS"


def test_the_table_may_be_a_workbook(small):
    path = small / f"{CLINICAL}.csv"
    expected = list_studies(small)
    path.unlink()
    write_workbook(path.with_suffix(".xlsx"), clinical_rows({study.subject_id: AVANTO for study in expected}))
    assert list_studies(small) == expected
    assert survey(small).remarks == ()


def test_missing_tables_and_rows_are_said_and_the_headers_used(small):
    write_csv(small / f"{CLINICAL}.csv", clinical_rows({"Breast_MRI_001": AVANTO, "Breast_MRI_900": AVANTO}))
    (remark,) = survey(small).remarks
    assert remark.subject_id == "Breast_MRI_002"
    assert "Not in the clinical table" in remark.message
    (small / f"{CLINICAL}.csv").unlink()
    said = [remark.message for remark in survey(small).remarks]
    assert any(f"holds no {CLINICAL}" in message for message in said)
    assert list_studies(small)[1].acquisition.manufacturer_model == "Avanto"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", "b"], ["c", "d"]], "no column 'Patient ID'"),
        ([["Patient ID", "Flip Angle"], ["Breast_MRI_001", "1"]], "lacks the row that explains"),
        ([], "no column 'Patient ID'"),
    ],
)
def test_another_clinical_table_is_refused(small, rows, message):
    write_csv(small / f"{CLINICAL}.csv", rows)
    with pytest.raises(RequestError, match=message):
        survey(small)


def test_a_column_that_is_not_there_is_said(small):
    write_csv(small / f"{CLINICAL}.csv", [["Patient ID", "TE (Echo Time)"], ["", ""], ["Breast_MRI_001", "2.81"]])
    messages = [remark.message for remark in survey(small).remarks]
    assert sum("no column for" in message for message in messages) == 7


def test_another_mapping_table_is_refused(small):
    write_csv(small / f"{MAPPING}.csv", [["a"], ["b"]])
    with pytest.raises(RequestError, match="descriptive_path"):
        survey(small)


def test_a_patient_without_pre_contrast_series_is_left_out_with_a_reason(small):
    add_patient(small, "Breast_MRI_007", series_of(small.with_name(small.name + "7")), pre="4.000000-ax t1 pre-11111")
    write_csv(small / "tables" / "empty.csv", [])
    assert len(list_studies(small)) == 2
    assert "none of the patient's series" in reasons(small)["Breast_MRI_007"]
    assert any(line.startswith("1 left out: ") and "Breast_MRI_007" in line for line in survey(small).lines())


def test_an_empty_tree_says_why(small):
    for file in small.rglob("*.dcm"):
        file.unlink()
    with pytest.raises(RequestError, match=r"no usable study: 2 left out: none of the patient's series .*MRI_001"):
        list_studies(small)


@pytest.mark.parametrize(
    ("pre", "others", "found"),
    [
        ("3.000000-ax 3d dyn-12345", ["4.000000-Ph1ax 3d dyn-23456", "5.000000-Ph2ax 3d dyn-34567"], True),
        ("4-ax dyn-1", ["5-1st ax dyn-2", "6-2nd ax dyn-3", "7-ax t1-4"], True),
        ("400.000000-Ax Vibrant MultiPhase-1", ["401.000000-Ph1Ax Vibrant MultiPhase-2"], True),
        ("11.000000-t1_fl3d_tra_dynVIEWS_spair_ pre-1", ["12.000000-t1_fl3d_tra_dynVIEWS_spair 1st pass-2"], True),
        ("2.000000-ax dyn pre-1", ["3.000000-ax t1 pre-2"], True),
        ("2.000000-ax dyn pre-1", ["3.000000-ax dyn pre repeat-2"], False),
        ("2.000000-ax t1 tse-1", ["3.000000-ax t2-2"], False),
        ("2.000000-Segmentation-1", [], False),
    ],
)
def test_without_the_mapping_table_names_tell_or_nothing_is_guessed(tmp_path, pre, others, found):
    add_patient(tmp_path / "tree", "Breast_MRI_001", series_of(tmp_path / "series"), pre, others)
    catalogue = survey_duke(tmp_path / "tree")
    assert [study.scan_path.name for study in catalogue.studies] == ([pre] if found else [])
    assert len(catalogue.left_out) == (0 if found else 1)


def test_the_mapping_table_decides_between_equal_names_however_it_spells_them(small):
    pre = "6.000000-ax dyn pre c-93878"
    add_patient(small, "Breast_MRI_009", series_of(small.with_name(small.name + "9")), pre, ("2.000000-ax dyn pre-1",))
    assert "2 of the patient's series" in reasons(small)["Breast_MRI_009"]
    rows = mapping_rows({"Breast_MRI_009": ("6.000000-ax dyn pre +c-93878", "2.000000-ax dyn pre-1")})
    write_csv(small / f"{MAPPING}.csv", rows)
    assert list_studies(small)[2].scan_path.name == pre


def test_a_damaged_or_foreign_file_leaves_its_patient_out(small):
    for patient, content in (("Breast_MRI_001", b"\0" * 128 + b"DICM" + b"\xff" * 50), ("Breast_MRI_002", b"text")):
        min((small / MANIFEST / patient).rglob("*pre*/*.dcm")).write_bytes(content)
    with pytest.raises(RequestError, match="no usable study"):
        list_studies(small)


def test_a_download_in_parts_counts_once(small):
    second = small / "manifest-2" / "Duke-Breast-Cancer-MRI"
    second.mkdir(parents=True)
    (small / MANIFEST / "Breast_MRI_002").rename(second / "Breast_MRI_002")
    add_patient(second, "x", series_of(small.with_name(small.name + "x")))
    assert [study.subject_id for study in list_studies(small)] == ["Breast_MRI_001", "Breast_MRI_002"]


def test_symbolic_links_do(small, tmp_path_factory):
    links = tmp_path_factory.mktemp("links")
    (links / "images").symlink_to(small / MANIFEST)
    (links / "table.d").symlink_to(small, target_is_directory=True)
    assert [study.subject_id for study in list_studies(links)] == ["Breast_MRI_001", "Breast_MRI_002"]
    assert survey(links).remarks == ()


def test_a_mask_of_another_size_is_one_line(small):
    write_masks(small / "Segmentation_Masks_NRRD" / "Breast_MRI_001", np.ones((9, 9, 9), np.uint8), np.eye(4))
    with pytest.raises(RequestError, match=r"Breast_MRI_001_Breast.seg.nrrd lies on another grid .* 9x9x9 voxels"):
        load_slices(list_studies(small)[:1], 16, with_labels=True)


def test_half_a_pair_of_masks_is_not_used_and_said(small):
    folder = write_masks(small / "Segmentation_Masks_NRRD" / "Breast_MRI_001", np.ones((7, 5, 4), np.uint8), np.eye(4))
    next(folder.glob("*Dense*")).unlink()
    (remark,) = survey(small).remarks
    assert "Labels not used" in remark.message
    assert list_studies(small)[0].labels_path is None


def test_label_maps_named_by_patient_are_found(small):
    path = small / "segmentations_files" / "Breast_MRI_002.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"read later")
    assert [study.labels_path for study in list_studies(small)] == [None, path]
