import json

import breasts
import numpy as np
import pytest

from cfmri_core.pipeline.image_support import ImageSupport, fit_image_support, subject_features, trunk_features
from cfmri_core.volume import Volume

TRAINING, HELD_BACK = range(40), range(40, 50)


@pytest.fixture(scope="module")
def predictor():
    return breasts.small_predictor()


@pytest.fixture(scope="module")
def support(predictor):
    features = [subject_features(breasts.slice_set(seeds), predictor) for seeds in (TRAINING, HELD_BACK)]
    return fit_image_support(*features)


def changed(seed, function):
    volume = breasts.breast(seed)
    return Volume(np.ascontiguousarray(function(volume.voxels)).astype(np.float32), volume.affine)


def test_new_volumes_of_the_same_kind_are_inside(support, predictor):
    verdicts = [support.judge(breasts.breast(seed), predictor).verdict for seed in range(100, 120)]
    assert verdicts.count("outside") <= 1
    assert verdicts.count("inside") >= 17


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("upside down", lambda voxels: voxels[:, ::-1]),
        ("noise", lambda voxels: np.abs(voxels + np.random.default_rng(0).normal(0, 250, voxels.shape))),
        ("inverted", lambda voxels: np.where(voxels > 50, 600 - voxels, voxels)),
        ("a ball", lambda voxels: 400.0 * (sum(g**2 for g in np.meshgrid(*[np.linspace(-1, 1, n) for n in voxels.shape],
                                                                        indexing="ij")) < 0.7)),
    ],
)  # fmt: skip
def test_other_images_are_outside_and_the_reason_says_so(support, predictor, name, function):
    verdict = support.judge(changed(100, function), predictor)
    assert verdict.verdict == "outside", name
    assert "does not look like those" in verdict.reasons[0]


def test_the_distribution_survives_json(support):
    again = ImageSupport.from_json(json.loads(json.dumps(support.to_json())))
    features = np.random.default_rng(0).normal(support.centre, 3 * support.spread, (5, len(support.centre)))
    assert again.distances(features) == pytest.approx(support.distances(features), rel=1e-3)
    assert again.limits == support.limits
    assert again.subjects == len(TRAINING)


def test_held_back_subjects_that_lie_further_raise_the_limits():
    rng = np.random.default_rng(0)
    training = rng.standard_normal((60, 20))
    near = fit_image_support(training, rng.standard_normal((20, 20)))
    far = fit_image_support(training, 3 * rng.standard_normal((20, 20)))
    assert far.limits[0] > 1.5 * near.limits[0]
    assert near.limits[0] < near.limits[1]


def test_the_share_of_false_alarms_is_what_the_limits_promise():
    rng = np.random.default_rng(1)
    support = fit_image_support(rng.standard_normal((80, 60)))
    distances = support.distances(rng.standard_normal((4000, 60)))
    assert np.mean(distances > support.limits[0]) < 0.08
    assert np.mean(distances > support.limits[1]) < 0.03


def test_a_feature_that_was_constant_does_not_decide_alone():
    rng = np.random.default_rng(2)
    training = rng.standard_normal((40, 30))
    training[:, 0] = 1.0
    support = fit_image_support(training)
    nudged = rng.standard_normal((1, 30))
    nudged[0, 0] = 1.0 + 1e-6
    assert support.distances(nudged)[0] < 2


def test_few_subjects_are_no_distribution():
    assert fit_image_support(np.zeros((5, 10))) is None


def test_trunk_features_are_what_the_last_layer_sees(predictor):
    images = breasts.slice_set(range(1)).images
    assert trunk_features(images, predictor).shape == (len(images), 8)
    assert not any(module._forward_pre_hooks for module in predictor.network.modules())
