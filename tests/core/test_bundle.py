"""MONAI bundles of our models: what MONAI runs is what cfmri runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch

from cfmri_core.errors import CheckpointError, RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.io.scan import read_scan
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.iap_predictor import IapPredictor
from cfmri_core.models.model_folder import locate_model
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.bundle import BUNDLE_KINDS, write_bundle
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.pipeline.prediction import predict_acquisition
from cfmri_core.pipeline.segmentation import segment_volume
from cfmri_core.simulation.study import StudyPlan, simulate_dataset


@pytest.fixture(scope="module")
def scan_path(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    simulate_dataset(root, 1, 4300, StudyPlan(slab_mm=8.0))
    return root / "sub-0001" / "dicom"


def run(bundle, scan_path, output, **overrides):
    paths = {"config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle)}
    monai.bundle.run(**paths, input=str(scan_path), output=str(output), **overrides)
    return output


def run_by_command(bundle, scan_path, output, *overrides):
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--input", str(scan_path), "--output", str(output), *overrides]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number rounds differently
    environment = {**os.environ, **threads}
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return output


def test_monai_edits_as_cfmri_does(tmp_path, scan_path):
    bundle = write_bundle(locate_model("direct_editor"), "direct_editor", tmp_path / "bundle")
    changed = ("--changes", "{'echo_time_ms': 2.0}", "--seed", "3")
    written = run_by_command(bundle, scan_path, tmp_path / "edited.nii.gz", *changed)
    scan = read_scan(scan_path)
    request = EditRequest(changes={"echo_time_ms": 2.0}, seed=3)
    ours = edit_volume(scan.volume, scan.acquisition.parameters, request, DirectEditor.load(bundle / "models"))
    assert np.abs(read_nifti(written).voxels - ours.volume.voxels).max() <= 1e-5 * ours.volume.voxels.max()
    assert json.loads((tmp_path / "edited_evidence.json").read_text())["synthetic"] is True


def test_monai_segments_and_predicts_as_cfmri_does(tmp_path, scan_path):
    labels = run(
        write_bundle(locate_model("segmenter"), "segmenter", tmp_path / "s"), scan_path, tmp_path / "labels.nii.gz"
    )
    scan = read_scan(scan_path)
    ours = segment_volume(scan.volume, Segmenter.load(tmp_path / "s" / "models"))
    assert np.array_equal(read_nifti(labels).voxels, ours.voxels)
    bundle = write_bundle(locate_model("iap_predictor"), "iap_predictor", tmp_path / "p")
    predicted = json.loads(run(bundle, scan_path, tmp_path / "predicted.json").read_text())
    expected = predict_acquisition(scan.volume, IapPredictor.load(bundle / "models"))
    assert predicted.keys() == expected.keys()
    assert predicted["echo_time_ms"]["value"] == pytest.approx(expected["echo_time_ms"]["value"], abs=1e-5)


@pytest.mark.parametrize("kind", BUNDLE_KINDS)
def test_a_bundle_has_what_the_specification_asks_for(tmp_path, kind):
    bundle = write_bundle(locate_model(kind), kind, tmp_path / "bundle")
    assert {path.name for path in bundle.iterdir()} == {"LICENSE", "configs", "docs", "models"}
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
              "description", "authors", "copyright", "network_data_format"}  # fmt: skip
    assert needed <= metadata.keys()
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def test_cfmri_reads_a_bundle_as_a_model_and_never_its_pickle(tmp_path):
    bundle = write_bundle(locate_model("segmenter"), "segmenter", tmp_path / "bundle")
    (bundle / "models" / "model.pt").write_bytes(b"not a pickle")
    (bundle / "configs" / "inference.json").write_text('{"run": ["$1/0"]}')
    assert Segmenter.load(locate_model("segmenter", bundle)).sha256
    with pytest.raises(CheckpointError, match="no model of kind 'editor'"):
        locate_model("editor", bundle)


def test_a_bundle_replaces_nothing_and_is_of_a_known_kind(tmp_path):
    with pytest.raises(RequestError, match="exists already"):
        write_bundle(locate_model("segmenter"), "segmenter", tmp_path)
    with pytest.raises(RequestError, match="direct_editor, editor"):
        write_bundle(locate_model("segmenter"), "lesion", tmp_path / "bundle")
    with pytest.raises(CheckpointError):
        write_bundle(Path(tmp_path), "segmenter", tmp_path / "bundle")
