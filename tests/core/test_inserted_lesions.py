"""Inserted lesions as training data, by an untrained editor: where they are and that they are kept, not their look."""

import dataclasses

import numpy as np
import pytest
import torch
from lesions import lesion_editor, lesion_mask, scan_without

from cfmri_core.data.catalogue import Study
from cfmri_core.data.lesion_scans import load_healthy_scans
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import inserted_lesions
from cfmri_core.training.inserted_lesions import HealthyScan, InsertionPlan, insertions
from cfmri_core.training.lesion_shapes import LesionShape

PIXEL_MM = 2.0


@pytest.fixture(autouse=True)
def tissue_told_by_intensity(monkeypatch):
    """The breasts lie before the chest wall; the darker half of their voxels is fibroglandular tissue."""

    def breast(volume, _):
        inside = volume.voxels > 100
        inside[:, 25:] = False
        return inside

    def labels(volume, segmenter):
        inside = breast(volume, segmenter).astype(np.uint8)
        return volume.with_voxels(inside + inside * (volume.voxels < 400).astype(np.uint8))

    monkeypatch.setattr(inserted_lesions, "segment_volume", labels)
    monkeypatch.setattr(inserted_lesions, "breast_mask", breast)


@pytest.fixture
def healthy(tmp_path):
    studies = []
    for number in range(2):
        path = tmp_path / f"{number}.nii.gz"
        write_nifti(path, scan_without(number), None)
        studies.append(Study(str(number), path, acquisition=PRESETS["ge-hdx-3t"]))
    scans = load_healthy_scans(studies, PIXEL_MM)
    return [HealthyScan(*pair) for pair in zip(studies, scans, strict=True)]


@pytest.fixture
def shapes():
    small = lesion_mask()
    small[10] = False
    return [LesionShape.of(scan_without().with_voxels(mask.astype(np.uint8))) for mask in (lesion_mask(), small)]


@pytest.fixture
def plan(tmp_path):
    editor = lesion_editor()
    editor.sha256 = "of a saved editor"
    return InsertionPlan(
        editor=editor, tissue=Segmenter.create("tiny"), per_scan=2, steps=1, cache=tmp_path / "kept"
    )  # fmt: skip


def test_the_label_is_the_mask_and_the_image_changes_about_it_alone(healthy, shapes, plan):
    made = insertions(healthy, shapes, plan, PIXEL_MM, seed=0)
    assert (len(made.scans), made.skipped) == (4, 0)
    for scan, source in zip(made.scans, (one for one in healthy for _ in range(2)), strict=True):
        lesion = scan.lesions > 0
        assert 10 < int(lesion.sum()) < 200
        assert len(scan.boxes) == 1
        change = (scan.images.float() - source.scan.images.float()).abs() > 0.05
        assert (change & lesion).any()
        assert change.float().mean() < 0.2
        assert scan.parameters == source.scan.parameters
        assert torch.equal(scan.breast, source.scan.breast)


def test_the_seed_decides_and_copies_of_a_scan_differ(healthy, shapes, plan):
    uncached = dataclasses.replace(plan, cache=None)
    first, again, other = (insertions(healthy[:1], shapes, uncached, PIXEL_MM, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first.scans, again.scans, strict=True))
    assert not torch.equal(first.scans[0].lesions, other.scans[0].lesions)
    assert not torch.equal(first.scans[0].lesions, first.scans[1].lesions)


def test_what_is_kept_is_not_made_again(healthy, shapes, plan, monkeypatch):
    first = insertions(healthy, shapes, plan, PIXEL_MM, seed=0)
    assert len(list(plan.cache.rglob("*.npy"))) == 4
    monkeypatch.setattr(inserted_lesions, "edit_lesion", None)
    again = insertions(healthy, shapes, plan, PIXEL_MM, seed=0)
    for a, b in zip(first.scans, again.scans, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.lesions, b.lesions)
    with pytest.raises(TypeError):
        insertions(healthy, shapes[:1], plan, PIXEL_MM, seed=0)


def test_an_editor_without_checksum_is_not_kept(healthy, shapes, plan):
    plan.editor.sha256 = ""
    insertions(healthy[:1], shapes, plan, PIXEL_MM, seed=0)
    assert not plan.cache.exists()


def test_what_cannot_be_made_is_counted_and_remembered(healthy, shapes, plan, monkeypatch):
    def refuse(*_):
        raise RequestError("The region with its surroundings spans 200 mm.")

    monkeypatch.setattr(inserted_lesions, "edit_lesion", refuse)
    made = insertions(healthy, shapes, plan, PIXEL_MM, seed=0)
    assert (len(made.scans), made.skipped) == (0, 4)
    monkeypatch.setattr(inserted_lesions, "edit_lesion", None)
    assert insertions(healthy, shapes, plan, PIXEL_MM, seed=0).skipped == 4
    monkeypatch.setattr(inserted_lesions, "drawn_mask", lambda *_: None)
    assert insertions(healthy, shapes, dataclasses.replace(plan, cache=None), PIXEL_MM, seed=0).skipped == 4
