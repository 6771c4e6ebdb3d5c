import breasts
import numpy as np

from cfmri_core.evaluation.out_of_support import head_phantom, headers_out_of_support, images_out_of_support
from cfmri_core.simulation.protocols import PRESETS

SOURCE = breasts.breast(0)


def test_images_lie_on_the_same_grid_and_are_the_same_every_time():
    made, again = (images_out_of_support(SOURCE, seed=3) for _ in range(2))
    assert set(made) == {"head phantom", "upside down", "heavy noise", "inverted contrast"}
    for name, volume in made.items():
        assert volume.has_same_grid(SOURCE)
        assert volume.voxels.dtype == np.float32
        assert volume.voxels.min() >= 0
        assert np.array_equal(volume.voxels, again[name].voxels)


def test_upside_down_is_turned_from_front_to_back():
    turned = images_out_of_support(SOURCE, seed=0)["upside down"]
    assert np.array_equal(turned.voxels, SOURCE.voxels[:, ::-1])


def test_the_head_has_a_skull_around_a_brain():
    head = head_phantom(SOURCE, 500.0, np.random.default_rng(0))
    middle = head[18, :, 3]
    inside = np.flatnonzero(middle > 60)
    skull, brain = middle[inside[0] : inside[0] + 2].max(), np.median(middle[12:24])
    assert skull > 3 * brain > 0
    assert head[:3, :3].mean() < 60


def test_headers_are_wrong_in_what_they_are_named_after():
    header = PRESETS["ge-hdx-3t"]
    made = headers_out_of_support(header)
    assert made["header of another scanner"].manufacturer == "SIEMENS"
    assert set(header.differences(made["combination never seen"])) == {"echo_time_ms"}
    assert made["header of a spin echo"].repetition_time_ms == 4500
    assert headers_out_of_support(PRESETS["siemens-trio-3t"])["header of another scanner"].manufacturer.startswith("GE")
