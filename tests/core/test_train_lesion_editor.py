"""Trainings of the lesion models, a few steps on small scans."""

import dataclasses

import numpy as np
import pytest
from lesions import CONFIG, lesion_mask, scan_without
from lesions import lesion_segmenter as small_segmenter

from cfmri_core.data.catalogue import Study
from cfmri_core.errors import RequestError
from cfmri_core.evaluation.candidate import compare
from cfmri_core.io.nifti import write_nifti
from cfmri_core.models import lesion_editor, lesion_segmenter
from cfmri_core.models.lesion_editor import LesionEditor, PaletteEditor
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training.lesion_editor import train_lesion_editor
from cfmri_core.training.lesion_segmenter import train_lesion_segmenter


@pytest.fixture
def studies(tmp_path, monkeypatch):
    monkeypatch.setattr(lesion_editor, "PRESETS", {"tiny": CONFIG})
    monkeypatch.setattr("cfmri_core.training.lesion_editor.PRESETS", {"tiny": CONFIG})
    monkeypatch.setattr(lesion_segmenter, "PRESETS", {"tiny": small_segmenter().config})
    presets = list(PRESETS.values())
    found = []
    for number in range(3):
        volume = scan_without(number)
        voxels = volume.voxels + 400 * lesion_mask()
        scan, mask = tmp_path / f"{number}.nii.gz", tmp_path / f"{number}-lesion.nii.gz"
        write_nifti(scan, volume.with_voxels(voxels.astype(np.float32)), None)
        write_nifti(mask, volume.with_voxels(lesion_mask().astype(np.uint8)), None)
        found.append(Study(str(number), scan, lesion_path=mask, acquisition=presets[number]))
    return found


@pytest.mark.parametrize("kind", [LesionEditor, PaletteEditor])
def test_a_training_writes_a_model_and_goes_on_where_it_stopped(studies, tmp_path, kind):
    options = {"kind": kind, "iterations": 3, "batch_size": 2, "validation_share": 0.3}
    folder = train_lesion_editor(studies, tmp_path / "run", **options)
    first = kind.load(folder)
    assert "simulated" in (folder / "README.md").read_text()
    again = kind.load(train_lesion_editor(studies, tmp_path / "run", resume=True, **options))
    assert again.sha256 == first.sha256


def test_a_trained_editor_can_be_trained_on_and_is_compared(studies, tmp_path):
    folder = train_lesion_editor(studies[:2], tmp_path / "a", iterations=2, batch_size=2, validation_share=0.5)
    further = train_lesion_editor(
        studies[:2], tmp_path / "b", iterations=2, batch_size=2, validation_share=0.5, start_from=folder
    )
    comparison = compare("lesion_editor", further, folder, studies[2:])
    assert comparison.candidate is not None
    assert comparison.current is not None
    assert comparison.metric == "error of the predicted noise"


def test_a_segmenter_is_trained(studies, tmp_path):
    folder = train_lesion_segmenter(studies, tmp_path / "run", iterations=2, batch_size=2, validation_share=0.3)
    assert LesionSegmenter.load(folder).kind == "lesion_segmenter"


def test_studies_without_lesion_masks_are_refused(studies, tmp_path):
    without = [dataclasses.replace(study, lesion_path=None) for study in studies]
    with pytest.raises(RequestError, match="0 subjects have a lesion mask"):
        train_lesion_editor(without, tmp_path / "run", iterations=1)
