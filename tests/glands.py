"""Volumes with a breast of known share, and a structure editor whose segmenter knows tissue by its brightness."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from cfmri_core.data.studies import SliceSet
from cfmri_core.models.conditioning import ConditionSpec
from cfmri_core.models.normalisation import Normalisation
from cfmri_core.models.segmenter import Segmenter, SegmenterConfig
from cfmri_core.models.structure_editor import PRESETS as PRESETS_OF_EDITORS
from cfmri_core.models.structure_editor import StructureEditor, StructureEditorConfig, StructureNetwork
from cfmri_core.simulation.protocols import PRESETS
from cfmri_core.slices import normalised_images
from cfmri_core.volume import Volume

PROTOCOL = next(iter(PRESETS.values()))
SPEC = ConditionSpec.from_parameters(list(PRESETS.values()))
SIZE = 32
#: Brightness of air, fat and fibroglandular tissue in scanner units; the last is about the 99th percentile.
LEVELS = (0.0, 300.0, 900.0)
AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2.0, 0, 30], [0, 0, 4, 0], [0, 0, 0, 1.0]])

SMALL = StructureEditorConfig(
    preset="test",
    image_size=SIZE,
    channels=(8, 16),
    attention=(False, False),
    head_channels=8,
    norm_groups=4,
    res_blocks=1,
    patch_size=2,
    normalisation=Normalisation(low_value=-1.0, high_value=1.0),
)


#: The smallest denoisers that real segmenters can be put beside.
QUICK = dataclasses.replace(PRESETS_OF_EDITORS["tiny"], channels=(8, 8), attention=(False, False), head_channels=8)


class Brightness(nn.Module):
    """Logits of background, fat and fibroglandular tissue from brightness alone; one weight, so that it can be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor([10.0]))

    def forward(self, images: Tensor) -> Tensor:
        centres = torch.tensor(LEVELS).div(LEVELS[2]).view(1, 3, 1, 1)
        return -self.sharpness * (images - centres) ** 2


def breast(seed: int = 0, radius: float = 6.0, slices: int = 4) -> Volume:
    """A breast of fat with a round gland in each slice; whole numbers, some noise."""
    rng = np.random.default_rng(seed)
    i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    body = np.where((i - 20) ** 2 + (j - 20) ** 2 < 15**2, LEVELS[1], LEVELS[0])
    image = np.where((i - 19) ** 2 + (j - 21) ** 2 < radius**2, LEVELS[2], body)
    voxels = np.repeat(image[..., None], slices, axis=2) + rng.normal(0, 8, (40, 40, slices))
    return Volume(np.rint(np.abs(voxels)).astype(np.float32), AFFINE)


def editor(seed: int = 0) -> StructureEditor:
    """An untrained editor that changes something: its last layers do not begin at zero."""
    torch.manual_seed(seed)
    network = StructureNetwork(SMALL, SPEC.width + 2, Brightness(), Brightness())
    sees = SegmenterConfig("test", SIZE, (4, 8), "INSTANCE")
    made = StructureEditor(network, SPEC, SMALL, sees, sees)
    with torch.no_grad():
        for weights in made.network.denoisers.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    made.network.eval().requires_grad_(False)
    return made


def quick_editor(segmenter: Segmenter) -> StructureEditor:
    """Untrained denoisers, too small to learn anything, about a real segmenter."""
    torch.manual_seed(0)
    network = StructureNetwork(QUICK, SPEC.width + 2, segmenter.network, copy.deepcopy(segmenter.network))
    return StructureEditor(network, SPEC, QUICK, segmenter.config, segmenter.config)


def slice_set(count: int = 3) -> SliceSet:
    """Breasts with glands of several sizes, as training sees them."""
    stacks = [normalised_images(breast(seed, radius=4.0 + seed), SIZE)[0] for seed in range(count)]
    subject = torch.cat([torch.full((len(stack),), number) for number, stack in enumerate(stacks)])
    return SliceSet(torch.cat(stacks), subject, (PROTOCOL,) * count, None, tuple(f"p{n}" for n in range(count)))
