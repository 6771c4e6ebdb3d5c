import pytest
import torch

from cfmri_core.diffusion.schedule import cosine_alpha_bar, index_grid
from cfmri_core.errors import RequestError


def test_schedule_starts_at_exactly_one_and_falls_strictly():
    alpha_bar = cosine_alpha_bar()
    assert alpha_bar.shape == (1001,)
    assert alpha_bar[0] == 1
    assert bool((alpha_bar.diff() < 0).all())
    assert 0 < alpha_bar[-1] < 1e-9


def test_noise_levels_are_those_measured_from_the_papers_code():
    spread = (1 - cosine_alpha_bar()).sqrt()
    assert [round(float(spread[index]), 2) for index in (25, 50, 75, 100, 200)] == [0.05, 0.09, 0.13, 0.17, 0.32]


def test_alpha_is_clipped_as_in_the_papers_code():
    alpha_bar = cosine_alpha_bar().double()
    alpha = alpha_bar[1:] / alpha_bar[:-1]
    assert float(alpha.min()) == pytest.approx(1e-4, rel=1e-3)
    assert float(alpha.max()) <= 0.9999 + 1e-7


def test_steps_other_than_a_thousand():
    assert torch.allclose(cosine_alpha_bar(100)[50], cosine_alpha_bar()[500], rtol=0.02)


@pytest.mark.parametrize(
    ("top", "steps", "expected"), [(1000, 4, [0, 250, 500, 750, 1000]), (3, 3, [0, 1, 2, 3]), (10, 4, [0, 2, 5, 8, 10])]
)
def test_grid_runs_from_zero_to_the_top(top, steps, expected):
    assert index_grid(top, steps) == expected


@pytest.mark.parametrize(("top", "steps"), [(10, 0), (10, 11), (0, 1)])
def test_impossible_grid_is_refused(top, steps):
    with pytest.raises(RequestError, match=f"Cannot place {steps} steps"):
        index_grid(top, steps)
