"""What ours is timed against: the network of the paper's authors at its published size, run as their code runs it.

Float32, standard memory layout, two network evaluations per step and 50 steps a slice, one file per slice in training.
The layers are MONAI's, which took them over from monai-generative 0.2.3; on the same weights both give the same to
2e-6. Weights do not matter to the time, so they are random.
Source: Morão et al., MIDL 2025 (arXiv 2410.23835), and their code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from torch import Tensor, nn

from cfmri_core.diffusion.schedule import cosine_alpha_bar
from cfmri_core.models.editor import PRESETS
from cfmri_core.models.unet import ConditionalUNet

#: Columns of a condition vector for the Duke collection; of no weight in the time.
CONDITION_WIDTH = 19
IMAGE_SIZE = PRESETS["paper"].image_size


def published_network(device: str, *, fused_attention: bool) -> ConditionalUNet:
    """Return their network with random weights.

    Args:
        device: Torch device.
        fused_attention: Whether attention is one kernel; theirs is plain unless xformers is installed.
    """
    network = ConditionalUNet(PRESETS["paper"], CONDITION_WIDTH)
    for module in network.modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = fused_attention  # type: ignore[assignment]
    return network.to(device)


def guided_step(network: ConditionalUNet, device: str) -> Callable[[], Tensor]:
    """Return one step of their loop on one slice: two evaluations, with and without condition, as one batch."""
    images = torch.randn(2, 1, IMAGE_SIZE, IMAGE_SIZE, device=device)
    condition, time = torch.randn(2, CONDITION_WIDTH, device=device), torch.full((2,), 25.0, device=device)
    network.eval()

    def step() -> Tensor:
        with torch.inference_mode():
            return _forward(network, images, time, condition)

    return step


def training_step(network: ConditionalUNet, files: list[Path], batch_size: int, device: str) -> Callable[[], None]:
    """Return one step of their training: slices read from one file each, noise predicted in float32, Adam.

    Args:
        network: Trained in place.
        files: ``.npy`` files of one slice each, float32, shape ``(IMAGE_SIZE, IMAGE_SIZE)``.
        batch_size: Slices per step.
        device: Torch device.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    alpha_bar, generator = cosine_alpha_bar(), torch.Generator().manual_seed(0)
    network.train()

    def step() -> None:
        chosen = torch.randint(len(files), (batch_size,), generator=generator).tolist()
        images = torch.from_numpy(np.stack([np.load(files[index]) for index in chosen]))[:, None].to(device)
        index = torch.randint(1, len(alpha_bar), (batch_size,), generator=generator)
        level = alpha_bar[index].float().to(device)[:, None, None, None]
        noise = torch.randn_like(images)
        condition = torch.randn(batch_size, CONDITION_WIDTH, device=device)
        predicted = _forward(network, level.sqrt() * images + (1 - level).sqrt() * noise, index.to(device), condition)
        loss = F.mse_loss(predicted, noise)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()

    return step


def _forward(network: ConditionalUNet, images: Tensor, time: Tensor, condition: Tensor) -> Tensor:
    """As `ConditionalUNet.forward`, in the standard memory layout."""
    output: Tensor = network.unet(images, time, context=condition[:, None], class_labels=condition)
    return output
