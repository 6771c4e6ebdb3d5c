"""What is kept about the scanners of a site."""

import numpy as np
import pytest

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.dicom.provenance import Derivation
from cfmri_core.errors import CheckpointError
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.scanners import FILE_NAME, Scanners, identity_of
from cfmri_core.pipeline.counterfactual import edit_volume
from cfmri_core.pipeline.method import EditRequest
from cfmri_core.simulation.anatomy import generate_anatomy
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.simulation.scanner import draw_subject, scan

AVANTO, HDXT = PRESETS["siemens-avanto-1.5t"], PRESETS["ge-hdxt-1.5t"]
FITTED = Scanners({"Avanto": 0.2, "Signa HDxt": -0.1}, {"Avanto": 30, "Signa HDxt": 20})


@pytest.fixture
def folder(tmp_path):
    editor = DirectEditor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values())))
    editor.save(tmp_path / "model", "card")
    return tmp_path / "model"


def test_only_the_difference_of_two_scanners_counts():
    assert FITTED.fat_change(AVANTO, HDXT) == pytest.approx(-0.3)
    assert FITTED.fat_change(HDXT, AVANTO) == pytest.approx(0.3)
    assert FITTED.fat_change(AVANTO, AVANTO) == 0
    assert FITTED.fat_change(AVANTO, AcquisitionParameters()) == pytest.approx(-0.2)


def test_what_does_not_suppress_fat_is_not_concerned():
    unsuppressed = AVANTO.replaced({"scan_options": "PFP"})
    assert FITTED.fat_change(unsuppressed, AVANTO) == pytest.approx(0.2)
    assert FITTED.fat_change(AVANTO, unsuppressed) == pytest.approx(-0.2)


def test_a_fit_gives_the_same_weights_another_identity():
    assert Scanners().identity("abc") == "abc"
    identities = {one.identity("abc") for one in (FITTED, Scanners({"Avanto": 0.1}, {"Avanto": 3}))}
    assert len(identities | {FITTED.identity("abd"), "abc"}) == 4


def test_it_is_loaded_with_the_model_it_was_fitted_for(folder):
    assert DirectEditor.load(folder).scanners == Scanners()
    FITTED.write(folder, DirectEditor.load(folder).sha256)
    fitted = DirectEditor.load(folder)
    assert fitted.scanners == FITTED
    assert fitted.identity == identity_of(folder) != fitted.sha256


def test_that_of_other_weights_is_refused(folder):
    FITTED.write(folder, "0" * 64)
    with pytest.raises(CheckpointError, match="other weights"):
        DirectEditor.load(folder)


@pytest.mark.parametrize("fat", [[], [1], {"Avanto": "much"}, {"Avanto": None}, {"Avanto": float("nan")}])
def test_damage_is_told_by_name(folder, fat):
    if not fat:
        Scanners().write(folder, DirectEditor.load(folder).sha256).write_text("{}")
    else:
        Scanners(fat, {}).write(folder, DirectEditor.load(folder).sha256)
    with pytest.raises(CheckpointError, match=FILE_NAME):
        DirectEditor.load(folder)


def test_a_scanner_that_leaves_more_fat_shows_it_brighter(folder):
    anatomy = generate_anatomy(3, slab_mm=8)
    source = scan(anatomy, draw_subject(anatomy, 3), HDXT, noise_seed=3)
    changes = {name: new for name, (_, new) in HDXT.differences(AVANTO).items()}
    editor = DirectEditor.load(folder)
    plain = edit_volume(source, HDXT, EditRequest(changes=changes, source_noise="remove"), editor)
    editor.scanners = FITTED
    fitted = edit_volume(source, HDXT, EditRequest(changes=changes, source_noise="remove"), editor)
    assert "scanner_fit" not in plain.evidence
    assert fitted.evidence["scanner_fit"] == {"log_fat_change": pytest.approx(0.3), "patients": dict(FITTED.patients)}
    assert fitted.volume.voxels.mean() > 1.02 * plain.volume.voxels.mean()
    uids = {Derivation.of(HDXT, AVANTO, one.evidence, source).uid("1.2") for one in (plain, fitted)}
    assert len(uids) == 2


def test_an_edit_between_models_that_only_the_fit_knows_is_made(folder):
    anatomy = generate_anatomy(3, slab_mm=8)
    vida = AVANTO.replaced({"manufacturer_model": "Vida"})
    source = scan(anatomy, draw_subject(anatomy, 3), vida, noise_seed=3)
    editor = DirectEditor.load(folder)
    request = EditRequest(changes={"manufacturer_model": "Sola"})
    assert np.array_equal(edit_volume(source, vida, request, editor).volume.voxels, source.voxels)
    editor.scanners = Scanners({"Vida": 0.3}, {"Vida": 20})
    edited = edit_volume(source, vida, request, editor)
    assert not np.array_equal(edited.volume.voxels, source.voxels)
    assert edited.evidence["network_evaluations_per_slice"] > 0
