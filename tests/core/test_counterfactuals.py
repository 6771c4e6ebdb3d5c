"""Counterfactuals of training scans: targets, and the cache that arms and seeds share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cfmri_core.data.studies import list_studies, load_slices
from cfmri_core.io.nifti import sidecar_of, write_nifti
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.direct_editor import DirectEditor
from cfmri_core.models.editor import Editor
from cfmri_core.pipeline.counterfactual import Counterfactual
from cfmri_core.pipeline.method import DEFAULT_METHOD, METHODS
from cfmri_core.simulation.population import Population
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import counterfactuals
from cfmri_core.training.counterfactuals import CounterfactualPlan, counterfactual_images, scan_paths
from cfmri_core.volume import Volume

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A GE volume of three slices and a Siemens volume of two."""
    root, rng = tmp_path_factory.mktemp("scans"), np.random.default_rng(0)
    for name, count, parameters in (("a", 3, GE), ("b", 2, SIEMENS)):
        volume = Volume(100 * rng.random((32, 32, count)).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
        write_nifti(root / f"{name}.nii.gz", volume, sidecar_of(parameters))
    return list_studies(root)


@pytest.fixture(scope="module")
def slices(studies):
    return load_slices(studies, 48)


@pytest.fixture(scope="module")
def scans(slices, studies):
    return scan_paths(slices, studies)


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor") / "editor"
    Editor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values()))).save(folder, "Untrained.")
    return Editor.load(folder)


@pytest.fixture
def edits(monkeypatch):
    """Every request; instead of a network, a ramp along the rows whose slope is the target's echo time."""
    calls = []

    def edit(volume, factual, request, editor):
        calls.append((factual, factual.replaced(request.changes), request))
        ramp = float(request.changes["echo_time_ms"]) * np.arange(volume.shape[0], dtype=np.float32)
        edited = volume.with_voxels(volume.voxels + 10 * ramp[:, None, None])
        return Counterfactual(edited, factual, {})

    monkeypatch.setattr(counterfactuals, "edit_volume", edit)
    return calls


def test_a_volume_gets_one_other_scanner_for_all_of_its_slices(slices, scans, editor, edits):
    first, second = counterfactual_images(slices, scans, CounterfactualPlan(editor=editor))
    assert first.shape == second.shape == slices.images.shape
    assert [factual.manufacturer for factual, *_ in edits] == [GE.manufacturer] * 2 + [SIEMENS.manufacturer] * 2
    for factual, target, request in edits:
        assert target.manufacturer_model != factual.manufacturer_model
        assert request.method == DEFAULT_METHOD
    assert len({(target.echo_time_ms, request.seed) for _, target, request in edits}) == 4


def test_a_counterfactual_is_normalised_as_a_scan_is(slices, scans, editor, edits):
    (edited,) = counterfactual_images(slices, scans, CounterfactualPlan(editor=editor, per_volume=1))
    first = edited[slices.subject == 0]
    low, high = np.percentile(first.numpy(), [10, 99])
    assert low == pytest.approx(0, abs=0.1)
    assert high == pytest.approx(1, abs=0.1)
    assert not torch.allclose(first, slices.images[slices.subject == 0], atol=0.1)


def test_slices_that_were_left_out_stay_out(tmp_path, editor, edits):
    voxels = np.zeros((32, 32, 9), dtype=np.float32)
    voxels[:, :, 3:6] = 100 * np.random.default_rng(1).random((32, 32, 3))
    write_nifti(tmp_path / "a.nii.gz", Volume(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), sidecar_of(GE))
    studies = list_studies(tmp_path)
    slices = load_slices(studies, 48)
    plan = CounterfactualPlan(editor=editor, per_volume=1)
    (edited,) = counterfactual_images(slices, scan_paths(slices, studies), plan)
    assert len(edited) == len(slices.images) == 3


def test_what_a_volume_becomes_does_not_depend_on_the_others(slices, scans, editor, edits):
    plan = CounterfactualPlan(editor=editor, per_volume=1)
    (together,) = counterfactual_images(slices, scans, plan)
    (alone,) = counterfactual_images(slices.of_subjects([1]), scans, plan)
    assert torch.equal(together[3:], alone)


def test_the_cache_is_shared_and_an_interrupted_run_goes_on(slices, scans, editor, edits, tmp_path):
    plan = CounterfactualPlan(editor=editor, cache=tmp_path / "cache")

    def stop_after_two(step, total, message):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counterfactual_images(slices, scans, plan, stop_after_two)
    images = counterfactual_images(slices, scans, plan)
    assert len(edits) == 4
    again = counterfactual_images(slices, scans, plan)
    assert len(edits) == 4
    in_memory = counterfactual_images(slices, scans, CounterfactualPlan(editor=editor))
    for one, other, uncached in zip(images, again, in_memory, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, uncached)
    assert not any("sub" in path.name for path in (tmp_path / "cache").rglob("*"))


def test_another_seed_method_or_editor_is_made_anew(slices, scans, editor, edits, tmp_path):
    scan = slices.of_subjects([0])
    for change in ({}, {"seed": 1}, {"method": "paper"}, {"population": Population("other-manufacturer")}):
        counterfactual_images(scan, scans, CounterfactualPlan(editor=editor, per_volume=1, cache=tmp_path, **change))
    assert len(edits) == 4
    other = Editor(editor.network, editor.spec, editor.config)
    other.sha256 = "another"
    counterfactual_images(scan, scans, CounterfactualPlan(editor=other, per_volume=1, cache=tmp_path))
    assert len(edits) == 5


def test_a_damaged_file_is_made_again(slices, scans, editor, edits, tmp_path):
    scan = slices.of_subjects([0])
    plan = CounterfactualPlan(editor=editor, per_volume=1, cache=tmp_path)
    (before,) = counterfactual_images(scan, scans, plan)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:50])
    (after,) = counterfactual_images(scan, scans, plan)
    assert torch.equal(before, after)
    assert len(edits) == 2


@pytest.mark.parametrize("kind", [Editor, DirectEditor])
def test_real_editors_return_finite_images_of_the_same_shape(slices, scans, kind, monkeypatch):
    monkeypatch.setitem(METHODS, "inversion", replace(METHODS["inversion"], steps=2))
    method = "inversion" if kind is Editor else "fast"
    editor = kind.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values())))
    plan = CounterfactualPlan(editor=editor, per_volume=1, method=method)
    (edited,) = counterfactual_images(slices.of_subjects([1]), scans, plan)
    assert edited.shape == (2, 1, 48, 48)
    assert torch.isfinite(edited).all()
