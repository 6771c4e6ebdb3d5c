"""Shares of versions of one volume."""

import glands
import numpy as np
import pytest

from cfmri_core.pipeline.share_reading import ShareReader


@pytest.fixture(scope="module")
def reader():
    volume = glands.breast()
    return ShareReader(volume, volume.voxels > 150, glands.editor().reader)


def test_the_share_is_that_of_the_gland_in_the_breast(reader):
    assert reader.share(glands.breast().voxels) == pytest.approx((6 / 15) ** 2, rel=0.1)


def test_more_gland_is_a_larger_share_and_what_lies_outside_does_not_count(reader):
    present = reader.share(glands.breast().voxels)
    assert reader.share(glands.breast(radius=7.0).voxels) > 1.2 * present
    outside = glands.breast().voxels.copy()
    outside[:3, :3] = glands.LEVELS[2]
    assert reader.share(outside) == pytest.approx(present, rel=1e-3)


def test_a_version_is_read_on_the_scale_of_the_source(reader):
    """A brighter scan is another scan, not more gland by a scale of its own."""
    voxels = glands.breast().voxels
    assert reader.share(np.asarray(1.5 * voxels, dtype=np.float32)) > reader.share(voxels)
