import numpy as np
import pytest
import torch

from cfmri_core.data.studies import list_studies
from cfmri_core.errors import RequestError
from cfmri_core.pipeline.method import load_editor
from cfmri_core.simulation.study import StudyPlan, simulate_dataset
from cfmri_core.training import labelling_pool
from cfmri_core.training.labelling_pool import LabellingPool, PoolRecipe


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("pool")
    simulate_dataset(root, 2, 7300, StudyPlan(slab_mm=5))
    return list_studies(root)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def pool_of(studies, cache, augmentation="none", **more):
    recipe = PoolRecipe(augmentation=augmentation, iterations=2, batch_size=2, **more)
    return LabellingPool(studies, load_editor("fast"), "fast", cache, recipe)


def test_a_training_sees_the_labels_of_the_named_cases_alone(studies, cache, tmp_path, monkeypatch):
    pool, seen = pool_of(studies, cache), []
    fit = labelling_pool.fit_segmenter

    def noting_fit(segmenter, training, *given, **options):
        seen.append(training)
        return fit(segmenter, training, *given, **options)

    monkeypatch.setattr(labelling_pool, "fit_segmenter", noting_fit)
    segmenter = pool.train(["sub-0002"], 0, tmp_path / "run")
    assert [training.patients for training in seen] == [("sub-0002",)]
    assert segmenter.sha256
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"model"}


def test_seed_and_cases_decide_the_weights(studies, cache, tmp_path):
    for augmentation in ("classical", "counterfactual"):
        pool = pool_of(studies, cache, augmentation)
        one = pool.train(["sub-0001", "sub-0002"], 3, tmp_path / f"{augmentation}-1")
        same = pool.train(["sub-0002", "sub-0001"], 3, tmp_path / f"{augmentation}-2")
        other = pool.train(["sub-0001", "sub-0002"], 4, tmp_path / f"{augmentation}-3")
        assert one.sha256 == same.sha256 != other.sha256


def test_counterfactuals_are_kept(studies, cache, monkeypatch):
    pool = pool_of(studies, cache)
    torch.manual_seed(0)
    segmenter = labelling_pool.Segmenter.create("tiny")
    values = pool.disagreements(segmenter, ["sub-0001", "sub-0002"])
    assert all(-1 < value < 1 for value in values.values())
    monkeypatch.setattr(labelling_pool, "counterfactual_views", None)
    again = pool_of(studies, cache).disagreements(segmenter, ["sub-0001", "sub-0002"])
    np.testing.assert_allclose(list(again.values()), list(values.values()))


def test_two_cases_of_one_name_are_refused(studies, cache):
    with pytest.raises(RequestError, match="same name"):
        pool_of([*studies, studies[0]], cache)
