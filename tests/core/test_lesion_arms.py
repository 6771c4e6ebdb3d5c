"""The arms of the lesion study, a few steps on small scans: what each sees, not how good it gets."""

import dataclasses

import numpy as np
import pytest
import torch
from lesions import lesion_editor, lesion_mask, lesion_segmenter, scan_without

from cfmri_core.data.catalogue import Study
from cfmri_core.data.lesion_scans import lesion_scan
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import write_nifti
from cfmri_core.models import lesion_segmenter as segmenter_module
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import lesion_arms
from cfmri_core.training.inserted_lesions import InsertionPlan, Insertions
from cfmri_core.training.lesion_arms import (
    CLASSICAL,
    INSERTED,
    LESION_ARMS,
    NONE,
    ArmLoss,
    ArmScans,
    LesionArmTrainer,
    LesionRecipe,
    require_lesion_arm,
)

RECIPE = LesionRecipe(lesions=2, iterations=2, batch_size=6)


def study(folder, number, with_lesion):
    volume, mask = scan_without(number), lesion_mask()
    scan, path = folder / f"{number}.nii.gz", folder / f"{number}-lesion.nii.gz"
    write_nifti(scan, volume.with_voxels((volume.voxels + 400 * mask * with_lesion).astype(np.float32)), None)
    write_nifti(path, volume.with_voxels(mask.astype(np.uint8)), None)
    return Study(f"s{number}", scan, lesion_path=path if with_lesion else None, acquisition=PRESETS["ge-hdx-3t"])


def in_memory(number, with_lesion):
    mask = lesion_mask() & with_lesion
    return lesion_scan(scan_without(number), mask, None, PRESETS["ge-hdx-3t"], 2.0)


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter_module, "PRESETS", {"tiny": lesion_segmenter().config})
    plan = InsertionPlan(editor=lesion_editor(), tissue=Segmenter.create("tiny"), steps=1)
    real = [study(tmp_path, number, True) for number in range(4)]
    return LesionArmTrainer(real, [study(tmp_path, number, False) for number in (4, 5)], plan, RECIPE)


@pytest.fixture
def one_inserted(monkeypatch):
    """Insertions of one scan, whatever is asked; tells the shapes it was asked for."""
    asked = []

    def made(healthy, shapes, plan, pixel_mm, seed, progress):
        asked.append((len(healthy), len(shapes), seed))
        return Insertions([in_memory(9, True)], skipped=1)

    monkeypatch.setattr(lesion_arms, "insertions", made)
    return asked


def test_arms_of_a_seed_share_their_real_lesions_and_seeds_differ(trainer, one_inserted, tmp_path):
    none = trainer(NONE, 0, tmp_path / "none")
    inserted = trainer(INSERTED, 0, tmp_path / "inserted")
    assert none.real == inserted.real == [f"s{number}" for number in trainer.real_of(0)]
    assert len(none.real) == 2
    assert (none.inserted, none.skipped, inserted.inserted, inserted.skipped) == (0, 0, 1, 1)
    assert one_inserted == [(2, 2, 0)]
    assert len({tuple(trainer.real_of(seed)) for seed in range(6)}) > 1
    assert none.segmenter.sha256 != inserted.segmenter.sha256
    assert not (tmp_path / "none" / "checkpoint.pt").exists()


def test_the_same_seed_gives_the_same_weights_and_a_stopped_training_goes_on(trainer, tmp_path):
    def stop(step, total, message):
        if step == 1:
            raise KeyboardInterrupt

    whole = trainer(CLASSICAL, 1, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trainer(CLASSICAL, 1, tmp_path / "stopped", stop)
    assert trainer(CLASSICAL, 1, tmp_path / "stopped").segmenter.sha256 == whole.segmenter.sha256


@pytest.fixture
def scans():
    return ArmScans([in_memory(0, True)], [in_memory(number, False) for number in (1, 2, 3)])


def shares(loss, count=2000):
    generator = torch.Generator().manual_seed(0)
    chosen = [loss.choose(generator) for _ in range(count)]
    about = [number for number, is_about in chosen if is_about]
    return len(about) / count, about, {number for number, is_about in chosen if not is_about}


def test_half_of_the_patches_are_about_lesions_in_every_arm(scans):
    share, about, elsewhere = shares(ArmLoss(lesion_segmenter(), scans, 2, is_classical=False))
    assert share == pytest.approx(0.5, abs=0.05)
    assert set(about) == {0}
    with_more = dataclasses.replace(scans, inserted=[in_memory(5, True), in_memory(6, True)])
    more, about_more, elsewhere_too = shares(ArmLoss(lesion_segmenter(), with_more, 2, is_classical=False))
    assert more == pytest.approx(0.5, abs=0.05)
    assert set(about_more) == {0, 4, 5}
    assert about_more.count(0) / len(about_more) == pytest.approx(0.5, abs=0.05)
    assert elsewhere == elsewhere_too == {0, 1, 2, 3}


def test_classical_transforms_change_patches_and_their_labels_together(scans, monkeypatch):
    seen = {}
    for is_classical in (False, True):
        loss = ArmLoss(lesion_segmenter(), scans, 8, is_classical)
        monkeypatch.setattr(
            loss, "of", lambda network, images, labels, key=is_classical: seen.update({key: (images, labels)})
        )
        loss(lesion_segmenter().network, torch.Generator().manual_seed(0))
    (plain_images, plain_labels), (images, labels) = seen[False], seen[True]
    assert images.shape == plain_images.shape == (8, 3, 32, 32)
    assert labels.shape == plain_labels.shape == (8, 1, 32, 32)
    assert labels.dtype == torch.float32
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(images, plain_images)
    assert not torch.equal(labels, plain_labels)
    assert labels.sum() == pytest.approx(float(plain_labels.sum()), rel=0.4)


def test_what_cannot_be_compared_is_refused(trainer, tmp_path):
    with pytest.raises(RequestError, match="'magic' is not an arm"):
        trainer("magic", 0, tmp_path)
    for name in LESION_ARMS:
        require_lesion_arm(name)
    too_many = dataclasses.replace(RECIPE, lesions=9)
    with pytest.raises(RequestError, match="4 studies have a lesion mask, 9 are wanted"):
        LesionArmTrainer(trainer.studies, [], trainer.plan, too_many)
    with pytest.raises(RequestError, match="has a lesion mask"):
        LesionArmTrainer(trainer.studies, trainer.studies[:1], trainer.plan, RECIPE)
