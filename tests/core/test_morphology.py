"""The baseline that moves borders."""

import glands
import numpy as np
import pytest

from cfmri_core.evaluation.morphology import grown_or_shrunk


@pytest.mark.parametrize("ratio", [0.6, 1.0, 1.3])
def test_the_labelled_volume_changes_by_the_ratio_and_nothing_else_does(ratio):
    source = glands.breast()
    labels = source.with_voxels(np.digitize(source.voxels, [150, 600]).astype(np.uint8))
    result = grown_or_shrunk(source, labels, ratio)
    after = (result.voxels > 600).sum()
    assert after == pytest.approx(ratio * (labels.voxels == 2).sum(), rel=0.01)
    assert np.array_equal(result.voxels[labels.voxels == 0], source.voxels[labels.voxels == 0])
    if ratio == 1.0:
        assert np.array_equal(result.voxels, source.voxels)


def test_it_grows_at_its_border():
    source = glands.breast()
    labels = source.with_voxels(np.digitize(source.voxels, [150, 600]).astype(np.uint8))
    grown = grown_or_shrunk(source, labels, 1.2).voxels != source.voxels
    i, j, _ = np.nonzero(grown)
    assert np.hypot(i - 19, j - 21).max() < 8
