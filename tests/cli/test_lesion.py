"""`lesion`: a region by mask or box, DICOM and NIfTI out, and what is not changed stays in its stored values."""

import json

import numpy as np
import pydicom
import pytest

from cfmri_core.cli.lesion import parse_box
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti, write_nifti
from cfmri_core.io.scan import read_scan

BOX = "30,40,1,36,46,4"


@pytest.fixture
def mask(series, tmp_path):
    volume = read_scan(series).volume
    voxels = np.zeros(volume.shape, np.uint8)
    voxels[30:36, 40:46, 1:4] = 1
    path = tmp_path / "masks" / "mask.nii.gz"
    path.parent.mkdir()
    write_nifti(path, volume.with_voxels(voxels), None)
    return path


def stored(folder):
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    images.sort(key=lambda image: float(image.ImagePositionPatient[2]))
    return images, np.stack([image.pixel_array for image in images])


def test_dicom_out_keeps_the_stored_values_outside(cfmri, series, mask, models, tmp_path):
    outcome = cfmri("lesion", series, tmp_path / "out", "--mask", mask, "--insert", "--steps", 2, "--json")
    evidence = outcome.json()
    (images, result), (_, source) = stored(tmp_path / "out"), stored(series)
    changed = np.argwhere(result != source)
    assert 0 < len(changed) < 0.02 * source.size
    assert np.ptp(changed, axis=0).max() < 6 + 2 * 4
    assert evidence["unchanged"]["max_abs_difference_outside"] == 0
    assert images[0][0x0008001C].value == "YES"
    assert images[0].SeriesDescription == "SYNTHETIC CF LESION INSERTED (not for diagnosis)"
    assert "Requested: lesion inserted" in images[0].DerivationDescription
    assert json.loads((tmp_path / "out" / "evidence.json").read_text()) == evidence


def test_nifti_out_by_box_and_removal(cfmri, series, models, tmp_path):
    output = tmp_path / "out.nii.gz"
    outcome = cfmri("lesion", series, output, "--box", BOX, "--remove", "--method", "repaint", "--steps", 2)
    assert outcome.code == 0
    assert "SYNTHETIC, not for diagnosis" in outcome.out
    change = read_nifti(output).voxels != read_scan(series).volume.voxels
    assert change.any()
    outside = np.ones_like(change)
    outside[30:36, 40:46, 1:4] = False
    assert not change[outside].any()
    evidence = json.loads((tmp_path / "out_evidence.json").read_text())
    assert (evidence["edit"], evidence["asked"]["given_as"]) == ("lesion removed", "box")


def test_two_regions_give_two_series(cfmri, series, models, tmp_path):
    for name, box in {"a": BOX, "b": "31,40,1,36,46,4"}.items():
        cfmri("lesion", series, tmp_path / name, "--box", box, "--insert", "--steps", 1)
    first, second = (stored(tmp_path / name)[0][0].SeriesInstanceUID for name in "ab")
    assert first != second


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--box", BOX), "exactly one of --insert and --remove"),
        (("--box", BOX, "--insert", "--remove"), "exactly one of --insert and --remove"),
        (("--insert",), "exactly one way where"),
        (("--insert", "--box", "1,2,3"), "is not a box"),
        (("--insert", "--box", "0,0,0,999,2,2"), "does not lie in the scan"),
        (("--insert", "--box", BOX, "--method", "magic"), "'magic' is not a method"),
        (("--insert", "--box", BOX, "--method", "sdedit", "--steps", 900), "steps is 900"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(cfmri, series, models, tmp_path, options, words):
    outcome = cfmri("lesion", series, tmp_path / "out", *options)
    assert outcome.code == 2
    assert words in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "1,2,3,4,5", "1,2,3,4,5,x", "-1,2,3,4,5,6"])
def test_other_boxes_are_refused(text):
    with pytest.raises(RequestError, match="not a box"):
        parse_box(text)


def test_an_image_unlike_those_of_the_training_is_marked_or_refused(cfmri, series, tmp_path):
    """The scan has no contrast agent; the shipped editor was trained on scans that have."""
    options = ("--box", BOX, "--insert", "--steps", 2)
    marked = cfmri("lesion", series, tmp_path / "out", *options, "--json")
    assert "does not look like those the editor was trained on" in marked.err
    assert marked.json()["support"]["verdict"] == "outside"
    refused = cfmri("lesion", series, tmp_path / "none", *options, "--on-refusal", "stop")
    assert refused.code != 0
    assert "Not edited" in refused.err
    assert not (tmp_path / "none").exists()
