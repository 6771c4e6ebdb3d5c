import numpy as np
import pytest
from breasts import small_predictor
from lesions import lesion_mask, lesion_segmenter, scan_without

from cfmri_core.errors import RequestError
from cfmri_core.evaluation import lesion_case
from cfmri_core.evaluation.fooling import scoring_predictor
from cfmri_core.evaluation.lesion_case import (
    LesionTruth,
    boundary_gradient,
    dice,
    harmonic_fill,
    insertion_metrics,
    is_found,
    lesion_features,
    removal_metrics,
)
from cfmri_core.simulation.protocols import PRESETS


@pytest.fixture
def truth():
    without, mask = scan_without(), lesion_mask()
    lesioned = without.with_voxels(without.voxels + 600.0 * mask.astype(np.float32))
    other_noise = scan_without()
    return LesionTruth(lesioned, without, other_noise, mask, without.voxels > 100, PRESETS["ge-hdx-3t"])


@pytest.fixture(autouse=True)
def bright_is_lesion(monkeypatch):
    """A segmenter that is right: whatever is brighter than any tissue."""
    monkeypatch.setattr(lesion_case, "lesion_probability", lambda volume, _: (volume.voxels > 700).astype(np.float32))


def test_the_true_lesion_gets_the_best_marks(truth):
    found = insertion_metrics(truth.with_lesion, truth.mask, truth, lesion_segmenter())
    assert found["dice"] == pytest.approx(1, abs=0.2)
    assert found["boundary_gradient_ratio"] == 1
    assert found["outside_max"] == found["collateral"] == 0
    assert found["volume_ratio"] == pytest.approx(1, abs=0.3)
    assert found["contrast"] > 50


def test_doing_nothing_gets_none(truth):
    found = insertion_metrics(truth.without, truth.mask, truth, lesion_segmenter())
    assert (found["dice"], found["found"]) == (0, 0)
    left = removal_metrics(truth.with_lesion, truth.mask, truth, lesion_segmenter())
    assert (left["nothing_found"], left["residual_probability"]) == (0, 1)
    gone = removal_metrics(truth.without, truth.mask, truth, lesion_segmenter())
    assert (gone["nothing_found"], gone["residual_probability"]) == (1, 0)
    assert gone["psnr_db"] > left["psnr_db"] + 10


def test_a_change_outside_is_seen(truth):
    voxels = truth.with_lesion.voxels.copy()
    voxels[30, 20, 0] += 50
    found = insertion_metrics(truth.with_lesion.with_voxels(voxels), truth.mask, truth, lesion_segmenter())
    assert found["outside_max"] == 50
    assert found["collateral"] > 0


def test_a_few_scattered_voxels_are_no_finding():
    found = np.zeros((8, 8, 4), bool)
    found[1, 1, 1] = found[5, 5, 2] = found[3, 6, 0] = True
    assert not is_found(found)
    found[1, 1:4, 1] = True
    assert is_found(found)
    assert dice(found, found) == 1


def test_a_harmonic_fill_continues_a_ramp(truth):
    ramp = truth.without.with_voxels(
        np.broadcast_to(np.arange(36, dtype=np.float32)[:, None, None], truth.without.shape).copy()
    )
    filled = harmonic_fill(ramp, truth.mask)
    assert np.allclose(filled, ramp.voxels, atol=0.05)


def test_the_gradient_is_that_at_the_border(truth):
    smooth = boundary_gradient(truth.without, truth.mask)
    assert boundary_gradient(truth.with_lesion, truth.mask) > 2 * smooth
    assert np.isnan(boundary_gradient(truth.without, np.zeros_like(truth.mask)))


def test_features_are_one_row_per_slice_of_the_lesion(truth):
    features = lesion_features(truth.with_lesion, truth.mask, scoring_predictor())
    assert features.shape == (2, 32)
    assert not np.allclose(features, lesion_features(truth.without, truth.mask, scoring_predictor()))
    with pytest.raises(RequestError, match="scoring predictor"):
        lesion_features(truth.with_lesion, truth.mask, small_predictor())
