import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cfmri_core.anatomy_agreement import (
    body_mask,
    gradient_magnitude,
    gradient_orientation_agreement,
    noise_level,
    structural_change,
)
from cfmri_core.errors import GeometryError


def smooth_image(seed, shape=(48, 40, 4)):
    """Blobs a few voxels wide, between 0 and 1."""
    image = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (3, 3, 0))
    return (image - image.min()) / np.ptp(image)


IMAGE = smooth_image(0)
EVERYWHERE = np.ones(IMAGE.shape, dtype=bool)


def test_agreement_is_blind_to_contrast_and_sees_another_anatomy():
    sharp = 3 * IMAGE
    same = gradient_orientation_agreement(sharp, sharp, EVERYWHERE)
    inverted = gradient_orientation_agreement(2 - 0.8 * sharp, sharp, EVERYWHERE)
    other = gradient_orientation_agreement(3 * smooth_image(1), sharp, EVERYWHERE)
    assert same > 0.8
    assert inverted > 0.75
    assert other < 0.5


def test_images_on_other_grids_are_refused():
    with pytest.raises(GeometryError, match="cannot be compared"):
        gradient_orientation_agreement(IMAGE[:10], IMAGE, EVERYWHERE)


def test_a_change_of_contrast_is_not_structure():
    gain = np.linspace(0.6, 1.4, IMAGE.shape[0])[:, None, None]
    assert np.abs(structural_change(gain * IMAGE + 0.2, IMAGE)).max() < 0.05


def test_an_added_object_is_structure_and_is_where_it_was_added():
    changed = IMAGE.copy()
    changed[20:23, 20:23, 2] += 0.8
    found = np.abs(structural_change(changed, IMAGE)) > 0.2
    assert found[21, 21, 2]
    assert not found[..., 0].any()
    assert not found[:10].any()


def test_noise_is_measured_on_top_of_anatomy():
    noisy = IMAGE + np.random.default_rng(2).normal(0, 0.07, IMAGE.shape)
    assert noise_level(noisy) == pytest.approx(0.07, rel=0.1)
    assert noise_level(IMAGE) < 0.01


def test_gradient_magnitude_of_a_ramp_is_its_slope():
    ramp = np.broadcast_to(0.03 * np.arange(40.0)[:, None, None], (40, 20, 2))
    assert gradient_magnitude(ramp)[20, 10, 1] == pytest.approx(0.03, rel=1e-6)


def test_the_body_is_where_the_signal_is():
    voxels = np.zeros((30, 30, 2))
    voxels[8:22, 8:22] = 0.6
    mask = body_mask(voxels)
    assert mask[15, 15, 0]
    assert not mask[2, 2, 0]


def test_a_volume_one_voxel_wide_is_measured_along_its_other_axis():
    line = 3 * IMAGE[:, :1]
    assert gradient_orientation_agreement(line, line, EVERYWHERE[:, :1]) > 0.5
    assert not gradient_magnitude(IMAGE[:1, :1]).any()
