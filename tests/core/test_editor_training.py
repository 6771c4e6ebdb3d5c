"""What the editor's training minimises."""

import pytest
import torch

from cfmri_core.training.editor import scale_balanced_square


def errors(shared, per_pixel, count=4, size=32):
    generator = torch.Generator().manual_seed(0)
    noise = per_pixel * torch.randn(count, 1, size, size, generator=generator)
    return shared + noise


@pytest.mark.parametrize("level", [0.02, 0.5, 0.98])
def test_no_error_costs_nothing_and_a_larger_error_more(level):
    levels = torch.full((4, 1, 1, 1), level)
    costs = [float(scale_balanced_square(scale * errors(0.1, 0.2), levels)) for scale in (0.0, 1.0, 2.0)]
    assert costs[0] == 0
    assert costs[2] == pytest.approx(4 * costs[1], rel=1e-5)


def test_an_error_that_pixels_share_weighs_more_than_one_they_do_not():
    """Both have the same mean square; where the image is half known, brightness is what is left to learn."""
    levels = torch.full((4, 1, 1, 1), 0.5)
    shared = float(scale_balanced_square(errors(0.1, 0.0), levels))
    scattered = float(scale_balanced_square(errors(0.0, 0.1), levels))
    assert shared > 10 * scattered


def test_the_conditional_mean_minimises_it():
    levels = torch.full((4, 1, 1, 1), 0.3)
    target = errors(0.3, 0.5)
    guess = torch.zeros(1, requires_grad=True)
    scale_balanced_square(guess - target + target.mean(), levels).backward()
    assert abs(float(guess.grad)) < 1e-3
