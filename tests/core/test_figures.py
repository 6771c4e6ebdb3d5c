"""Pictures: orientation, rulers, scales."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from cfmri_core.evaluation import figures
from cfmri_core.volume import Volume


def volume_with_corner(affine):
    """A volume whose brightest voxel lies at index (0, 0)."""
    voxels = np.zeros((6, 4, 2), np.float32)
    voxels[0, 0] = 1.0
    return Volume(voxels, affine)


@pytest.mark.parametrize(
    ("diagonal", "corner"),
    [((-2, -3, 4), (0, 0)), ((2, -3, 4), (0, -1)), ((-2, 3, 4), (-1, 0)), ((2, 3, 4), (-1, -1))],
)
def test_axial_slices_show_the_patient_from_below(diagonal, corner):
    panel = figures.oriented_slice(volume_with_corner(np.diag([*diagonal, 1.0])), 0)
    assert panel.letters == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert panel.pixels.shape == (4, 6)
    assert panel.pixels[corner] == 1.0
    assert panel.spacing_mm == (3.0, 2.0)
    assert panel.extent_mm == (0.0, 12.0, 12.0, 0.0)


def test_sagittal_slices_have_the_front_on_the_left_and_the_head_on_top():
    affine = np.array([[0, 0, 4.0, 0], [-2, 0, 0, 0], [0, -3, 0, 0], [0, 0, 0, 1]])
    panel = figures.oriented_slice(volume_with_corner(affine), 0)
    assert panel.letters == {"left": "A", "right": "P", "top": "S", "bottom": "I"}


def test_axes_stored_the_other_way_round_are_turned():
    affine = np.array([[0, -3, 0, 0], [-2, 0, 0, 0], [0, 0, 4.0, 0], [0, 0, 0, 1]])
    panel = figures.oriented_slice(volume_with_corner(affine), 0)
    assert panel.letters["left"] == "R"
    assert panel.pixels.shape == (6, 4)


def picture(uri):
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))).convert("RGB")
    )


@pytest.fixture
def panel():
    return figures.oriented_slice(Volume(np.full((80, 60, 1), 0.5, np.float32), np.diag([-2.0, -2, 2, 1])), 0)


def test_a_comparison_is_grey_and_a_difference_is_red_where_brighter(panel):
    grey = picture(figures.comparison_figure({"a": panel, "b": panel}, (0, 1), "units"))
    middle = grey[grey.shape[0] // 2, grey.shape[1] // 5]
    assert np.ptp(middle.astype(int)) == 0
    red = picture(figures.difference_figure({"a": panel, "b": panel}, 0.6, "units"))
    middle = red[red.shape[0] // 2, red.shape[1] // 5].astype(int)
    assert middle[0] > middle[2] + 40


def test_labels_are_coloured_over_the_image(panel):
    labels = figures.Slice((panel.pixels > 0).astype(np.uint8) * 2, panel.spacing_mm, panel.letters)
    shown = picture(figures.overlay_figure({"a": (panel, labels)}, (0, 1)))
    middle = shown[shown.shape[0] // 2, shown.shape[1] // 3].astype(int)
    assert middle[0] > middle[1] + 20


def test_bars_are_drawn_without_intervals_too():
    assert picture(figures.bar_figure({"a": (1.0, np.nan, np.nan), "b": (2.0, 1.5, 2.5)}, "dB", ideal=2.0)).size


def test_one_limit_serves_all_differences_and_is_never_zero():
    assert figures.difference_limit([np.zeros(5)]) > 0
    assert figures.difference_limit([np.array([-3.0] * 10), np.array([1.0] * 10)]) == pytest.approx(3.0)


@pytest.mark.parametrize("places", [(1.2, 2.0, 2.8), ("Avanto", "Signa HDxt", "TrioTim")])
def test_curves_over_numbers_and_over_names(places):
    series = {"fat": [(0.9, 0.88, 0.92)] * 3, "fibroglandular": [(0.7, np.nan, np.nan)] * 3}
    uri = figures.curve_figure(series, places, ("echo time (ms)", "Dice"), {"fat": 0.9})
    drawn = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert drawn.size[0] > 300
