"""Counterfactuals of training scans: targets, and the cache that arms and seeds share."""

import pytest
import torch

from cfmri_core.data.studies import SliceSet
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.editor import Editor
from cfmri_core.simulation.population import Population
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.training import counterfactuals
from cfmri_core.training.counterfactuals import CounterfactualPlan, counterfactual_images

GE, SIEMENS = PRESETS["ge-hdx-3t"], PRESETS["siemens-avanto-1.5t"]


@pytest.fixture
def slices():
    images = torch.rand(5, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    return SliceSet(images, torch.tensor([0, 0, 0, 1, 1]), (GE, SIEMENS))


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("editor") / "editor"
    Editor.create("tiny", ConditionSpec.from_parameters(list(PRESETS.values()))).save(folder, "Untrained.")
    return Editor.load(folder)


@pytest.fixture
def edits(monkeypatch):
    """Every call for an edit; an edit adds the number of its target's echo time instead of running a network."""
    calls = []

    def edit(images, factual, target, editor, *, method, seed):
        calls.append((factual, target, method, seed, len(images), tuple(images.shape[2:])))
        return images + target.echo_time_ms

    monkeypatch.setattr(counterfactuals, "edit_images", edit)
    return calls


def test_a_volume_gets_one_other_scanner_for_all_of_its_slices(slices, editor, edits):
    first, second = counterfactual_images(slices, CounterfactualPlan(editor=editor))
    assert first.shape == second.shape == slices.images.shape
    assert [slices_in_call for *_, slices_in_call, _ in edits] == [3, 3, 2, 2]
    for factual, target, method, *_ in edits:
        assert target.manufacturer_model != factual.manufacturer_model
        assert method == "inversion"
    assert len({(target.echo_time_ms, seed) for _, target, _, seed, *_ in edits}) == 4


def test_what_a_volume_becomes_does_not_depend_on_the_others(slices, editor, edits):
    plan = CounterfactualPlan(editor=editor, per_volume=1)
    (together,) = counterfactual_images(slices, plan)
    (alone,) = counterfactual_images(slices.of_subjects([1]), plan)
    assert torch.equal(together[3:], alone)


def test_the_cache_is_shared_and_an_interrupted_run_goes_on(slices, editor, edits, tmp_path):
    plan = CounterfactualPlan(editor=editor, cache=tmp_path / "cache")

    def stop_after_two(step, total, message):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        counterfactual_images(slices, plan, stop_after_two)
    images = counterfactual_images(slices, plan)
    assert len(edits) == 4
    again = counterfactual_images(slices, plan)
    assert len(edits) == 4
    in_memory = counterfactual_images(slices, CounterfactualPlan(editor=editor))
    for one, other, uncached in zip(images, again, in_memory, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, uncached)
    assert not any("sub" in path.name for path in (tmp_path / "cache").rglob("*"))


def test_another_seed_method_or_editor_is_made_anew(slices, editor, edits, tmp_path):
    scan = slices.of_subjects([0])
    for change in ({}, {"seed": 1}, {"method": "paper"}, {"population": Population("other-manufacturer")}):
        counterfactual_images(scan, CounterfactualPlan(editor=editor, per_volume=1, cache=tmp_path, **change))
    assert len(edits) == 4
    other = Editor(editor.network, editor.spec, editor.config, "another")
    counterfactual_images(scan, CounterfactualPlan(editor=other, per_volume=1, cache=tmp_path))
    assert len(edits) == 5


def test_a_damaged_file_is_made_again(slices, editor, edits, tmp_path):
    scan = slices.of_subjects([0])
    plan = CounterfactualPlan(editor=editor, per_volume=1, cache=tmp_path)
    (before,) = counterfactual_images(scan, plan)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:50])
    (after,) = counterfactual_images(scan, plan)
    assert torch.equal(before, after)
    assert len(edits) == 2


def test_images_of_another_size_keep_their_own_detail(slices, editor, edits):
    small = SliceSet(slices.images[:, :, ::2, ::2], slices.subject, slices.parameters)
    (edited,) = counterfactual_images(small, CounterfactualPlan(editor=editor, per_volume=1))
    assert {size for *_, size in edits} == {(96, 96)}
    change = edited - small.images
    assert torch.allclose(change[:3], change[0, 0, 0, 0].expand(3, 1, 48, 48), atol=2e-3)


def test_a_real_editor_returns_finite_images_of_the_same_shape(slices, editor, monkeypatch):
    real = counterfactuals.edit_images
    monkeypatch.setattr(counterfactuals, "edit_images", lambda *args, **more: real(*args, **more, steps=2))
    (edited,) = counterfactual_images(slices.of_subjects([1]), CounterfactualPlan(editor=editor, per_volume=1))
    assert edited.shape == (2, 1, 96, 96)
    assert torch.isfinite(edited).all()
