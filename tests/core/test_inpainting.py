"""On Gaussian images whose exact noise predictor is known: filling must give their distribution back."""

import math

import pytest
import torch

from cfmri_core.diffusion.inpainting import fill, regenerate, repaint
from cfmri_core.diffusion.sampling import independent_noise
from cfmri_core.diffusion.schedule import cosine_alpha_bar, index_grid

ALPHA_BAR = cosine_alpha_bar()
SPREAD, SIZE, COUNT = 0.3, 24, 24
CONDITION = torch.zeros(1, 1)
REGION = torch.zeros(COUNT, 1, SIZE, SIZE, dtype=torch.bool)
REGION[..., 6:18, 6:18] = True


def exact(x, index, condition):
    level = float(ALPHA_BAR[index])
    return math.sqrt(1 - level) * x / (level * SPREAD**2 + 1 - level)


def noise(seed=0):
    return independent_noise(seed, range(COUNT), SIZE, SIZE)


@pytest.fixture
def images():
    return SPREAD * torch.randn(COUNT, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("resamplings", [1, 3])
def test_repaint_fills_with_the_right_spread_and_keeps_the_rest(images, resamplings):
    filled = repaint(
        exact, images, REGION, CONDITION, ALPHA_BAR, index_grid(999, 100), noise=noise(), resamplings=resamplings
    )
    assert torch.equal(filled[~REGION], images[~REGION])
    assert float(filled[REGION].std()) == pytest.approx(SPREAD, rel=0.12)
    assert abs(float(torch.corrcoef(torch.stack([filled[REGION], images[REGION]]))[0, 1])) < 0.1


def test_palette_sees_the_rest_without_noise(images):
    seen = []

    def watched(x, index, condition):
        seen.append(torch.equal(x[~REGION], images[~REGION]))
        return exact(x, index, condition)

    filled = fill(watched, images, REGION, CONDITION, ALPHA_BAR, index_grid(999, 100), noise=noise())
    assert all(seen)
    assert torch.equal(filled[~REGION], images[~REGION])
    assert float(filled[REGION].std()) == pytest.approx(SPREAD, rel=0.12)


def test_regenerating_from_a_low_level_stays_near_the_source(images):
    near, far = (
        regenerate(exact, images, CONDITION, ALPHA_BAR, index_grid(top, 10), noise=noise()) for top in (50, 900)
    )
    distance = [float((one - images).square().mean().sqrt()) for one in (near, far)]
    assert distance[0] < 0.5 * SPREAD < distance[1]


def test_the_noise_decides_and_progress_is_told(images):
    told = []
    grid = index_grid(999, 5)
    first = repaint(
        exact, images, REGION, CONDITION, ALPHA_BAR, grid, noise=noise(), callback=lambda *at: told.append(at)
    )
    assert told == [(n, 5) for n in range(1, 6)]
    assert torch.equal(first, repaint(exact, images, REGION, CONDITION, ALPHA_BAR, grid, noise=noise()))
    assert not torch.equal(first, repaint(exact, images, REGION, CONDITION, ALPHA_BAR, grid, noise=noise(1)))
