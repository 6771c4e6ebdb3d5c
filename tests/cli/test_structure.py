"""`cfmri structure`."""

import json

import glands
import nibabel
import numpy as np
import pytest

from cfmri_core.io.scan import read_scan
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline import structure_images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Untrained denoisers about the shipped segmenter; guidance needs no training."""
    folder = tmp_path_factory.mktemp("structure") / "structure_editor"
    glands.quick_editor(Segmenter.load(locate_model("segmenter"))).save(folder, "Untrained, for tests.")
    return folder


def test_a_dicom_series_comes_back_with_every_value_outside_the_breast(cfmri, series, model, tmp_path, monkeypatch):
    monkeypatch.setattr(structure_images, "GUIDED_STEPS", 4)
    options = ("--delta", 0.2, "--method", "guidance", "--model", model, "--device", "cpu", "--json")
    done = cfmri("structure", series, tmp_path / "out", *options)
    assert done.code == 0, done.err
    told = done.json()["structure"]
    assert told["share_obtained"] > told["share_before"]
    source, result = read_scan(series), read_scan(tmp_path / "out")
    changed = source.volume.voxels != result.volume.voxels
    assert changed.sum() == told["breast_voxels_changed"]
    assert json.loads((tmp_path / "out" / "evidence.json").read_text())["synthetic"] is True
    assert "FIBROGLANDULAR SHARE" in result.series.headers[0].SeriesDescription


def test_nifti_has_its_evidence_beside_it(cfmri, series, model, tmp_path):
    out = tmp_path / "out.nii.gz"
    done = cfmri("structure", series, out, "--delta", 0, "--model", model, "--device", "cpu")
    assert done.code == 0, done.err
    assert "SYNTHETIC" in done.out
    assert np.array_equal(nibabel.load(out).get_fdata(), read_scan(series).volume.voxels)
    assert json.loads((tmp_path / "out_evidence.json").read_text())["structure"]["rounds"] == 0


@pytest.mark.parametrize(
    "options", [(), ("--delta", 0.1, "--fgt-fraction", 0.2), ("--delta", 5), ("--delta", 0.1, "--method", "magic")]
)
def test_what_cannot_be_asked_for_is_a_usage_error(cfmri, series, model, tmp_path, options):
    done = cfmri("structure", series, tmp_path / "out", "--model", model, *options)
    assert done.code == 2
    assert not (tmp_path / "out").exists()
