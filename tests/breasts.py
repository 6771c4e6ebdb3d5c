"""Small volumes that look a little like an axial breast scan, and models small enough to judge them in no time."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from cfmri_core.data.studies import SliceSet
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.iap_predictor import IapPredictor, IapPredictorConfig, _build
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
SIZE = 32
#: Axial: i to the left, j to the back, k to the head.
AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4, 0], [0, 0, 0, 1.0]])


def breast(seed: int, noise: float = 8.0, shape: tuple[int, int, int] = (36, 36, 6)) -> Volume:
    """Two half ellipsoids of fat with tissue in them before a chest wall; scanner units, a few hundred."""
    rng = np.random.default_rng(seed)
    i, j, _ = np.meshgrid(*(np.arange(length) for length in shape), indexing="ij")
    width, depth = rng.uniform(6.5, 8.0), rng.uniform(13, 16)
    body = (j > 24) * 200.0
    texture = gaussian_filter(rng.standard_normal(shape), (1.5, 1.5, 0))
    for centre in (9, 26):
        inside = ((i - centre) / width) ** 2 + ((j - 24) / depth) ** 2 < 1
        body = np.where(inside & (j <= 24), 500.0 - 250.0 * (texture > 0.15), body)
    return Volume(np.abs(body + rng.normal(0, noise, shape)).astype(np.float32), AFFINE)


def slice_set(seeds: range) -> SliceSet:
    """Breasts as training sees them, their protocols in turn."""
    stacks = [normalised_images(breast(seed), SIZE)[0] for seed in seeds]
    subject = torch.cat([torch.full((len(stack),), number) for number, stack in enumerate(stacks)])
    presets = list(PRESETS.values())
    return SliceSet(torch.cat(stacks), subject, tuple(presets[seed % len(presets)] for seed in seeds))


def small_predictor() -> IapPredictor:
    """An untrained predictor."""
    torch.manual_seed(0)
    config = IapPredictorConfig("test", SIZE, (4, 4, 8, 8))
    network = _build(config, SPEC)
    return IapPredictor(network.eval().requires_grad_(False), SPEC, config)
