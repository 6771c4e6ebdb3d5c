import json

import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from cfmri_core.data.studies import Study, list_studies
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti, sidecar_of, write_nifti
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.pipeline.counterfactual import Counterfactual, requested_parameters
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import augmented_dataset
from cfmri_core.training.augmented_dataset import write_augmented_dataset
from cfmri_core.training.counterfactuals import CounterfactualPlan
from cfmri_core.volume import Volume

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])


@pytest.fixture
def data(tmp_path):
    """Three labelled volumes and one without labels."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for number in range(4):
        volume = Volume(rng.random((16, 16, 3)).astype(np.float32), AFFINE)
        write_nifti(root / f"scan.{number}.nii.gz", volume, sidecar_of(PRESETS["ge-hdx-3t"]))
        if number < 3:
            labels = Volume(rng.integers(0, 3, (16, 16, 3)).astype(np.uint8), AFFINE)
            write_nifti(root / "labels" / "final" / f"scan.{number}.nii.gz", labels, None)
    return root


@pytest.fixture
def plan(monkeypatch):
    """An edit adds 1 instead of running a network; ``plan.edits`` counts them."""
    edits = []

    def edit(volume, factual, request, editor):
        if len(edits) == stop_at[0]:
            raise KeyboardInterrupt
        edits.append(request)
        requested = requested_parameters(factual, request.changes)
        evidence = {"synthetic": True, "model": {"sha256": "0"}, "seed": request.seed}
        return Counterfactual(volume.with_voxels(volume.voxels + 1), requested, evidence)

    stop_at = [-1]
    monkeypatch.setattr(augmented_dataset, "edit_volume", edit)
    editor = Editor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values())))
    return CounterfactualPlan(editor=editor, per_volume=2), edits, stop_at


def test_pairs_in_both_layouts(data, plan, tmp_path):
    cases = write_augmented_dataset(data, tmp_path / "out", plan[0])
    out = tmp_path / "out"
    assert [case.name for case in cases[:3]] == ["scan-0", "scan-0_cf1", "scan-0_cf2"]
    assert sum(case.synthetic for case in cases) == 6
    nnunet = json.loads((out / "dataset.json").read_text())
    assert nnunet["numTraining"] == len(list((out / "imagesTr").glob("*_0000.nii.gz"))) == 9
    assert nnunet["labels"] == {"background": 0, "fat": 1, "fibroglandular tissue": 2}
    listed = load_decathlon_datalist(out / "datalist.json", base_dir=out)
    assert len(listed) == 9
    for item in listed:
        image, label = read_nifti(item["image"]), read_nifti(item["label"])
        assert image.has_same_grid(label)
        assert label.voxels.dtype == np.uint8


def test_a_counterfactual_says_that_it_is_synthetic_and_keeps_the_labels(data, plan, tmp_path):
    write_augmented_dataset(data, tmp_path / "out", plan[0])
    images, labels = tmp_path / "out" / "imagesTr", tmp_path / "out" / "labelsTr"
    scan, synthetic = (json.loads((images / f"scan-0{name}_0000.json").read_text()) for name in ("", "_cf1"))
    assert scan["Synthetic"] is False
    assert synthetic["Synthetic"] is True
    assert "SYNTHETIC" in synthetic["Description"]
    assert synthetic["ManufacturersModelName"] != scan["ManufacturersModelName"]
    assert json.loads((images / "scan-0_cf1_0000_evidence.json").read_text())["population"] == "duke"
    factual, edited = (read_nifti(images / f"scan-0{name}_0000.nii.gz").voxels for name in ("", "_cf1"))
    assert np.allclose(edited - factual, 1, atol=1e-5)
    assert (labels / "scan-0.nii.gz").read_bytes() == (labels / "scan-0_cf1.nii.gz").read_bytes()


def test_patients_share_a_fold_and_counterfactuals_never_validate(data, plan, tmp_path):
    cases = write_augmented_dataset(data, tmp_path / "out", plan[0])
    listed = json.loads((tmp_path / "out" / "datalist.json").read_text())["training"]
    for patient in {case.patient for case in cases}:
        assert len({item["fold"] for item, case in zip(listed, cases, strict=True) if case.patient == patient}) == 1
    splits = json.loads((tmp_path / "out" / "splits_final.json").read_text())
    assert sorted(name for split in splits for name in split["val"]) == ["scan-0", "scan-1", "scan-2"]
    for split in splits:
        (validated,) = split["val"]
        assert not any(name.startswith(validated) for name in split["train"])
        assert len(split["train"]) == 6


def test_an_interrupted_run_goes_on(data, plan, tmp_path):
    settings, edits, stop_at = plan
    stop_at[0] = 3
    with pytest.raises(KeyboardInterrupt):
        write_augmented_dataset(data, tmp_path / "out", settings)
    assert not (tmp_path / "out" / "datalist.json").exists()
    (tmp_path / "out" / "imagesTr" / "scan-1_cf2_0000.json").write_text("{}")  # killed before the image was written
    stop_at[0] = -1
    assert len(write_augmented_dataset(data, tmp_path / "out", settings)) == 9
    assert len(edits) == 6
    write_augmented_dataset(data, tmp_path / "out", settings)
    assert len(edits) == 6


def test_what_is_not_ours_or_of_another_plan_is_not_touched(data, plan, tmp_path):
    write_augmented_dataset(data, tmp_path / "out", plan[0])
    other = CounterfactualPlan(editor=plan[0].editor, per_volume=3)
    with pytest.raises(RequestError, match="other options"):
        write_augmented_dataset(data, tmp_path / "out", other)
    with pytest.raises(RequestError, match="holds something else"):
        write_augmented_dataset(data, data, plan[0])


def test_nothing_labelled_and_two_of_one_name_are_refused(data, plan, tmp_path):
    studies = list_studies(data)
    with pytest.raises(RequestError, match="no labelled study"):
        write_augmented_dataset(studies[3:], tmp_path / "out", plan[0])
    twice = [studies[0], Study("scan 0", studies[1].scan_path, studies[1].labels_path)]
    with pytest.raises(RequestError, match="Several studies would be called 'scan-0'"):
        write_augmented_dataset(twice, tmp_path / "out", plan[0])
