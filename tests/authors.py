"""Checkpoints as the authors of the paper write them, with random weights, and data as they load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generative.networks.nets import DiffusionModelUNet  # monai-generative
from monai.networks.layers.factories import Norm
from monai.networks.nets import ResNet, UNet
from torch import Tensor, nn

FEATURES: dict[str, Any] = {
    "features_dims": {
        "Manufacturer Model Name": 3,
        "Scan Options": 2,
        "Field Strength (Tesla)": 2,
        "Flip Angle": 1,
        "Slice Thickness": 1,
        "TE (Echo Time)": 1,
        "TR (Repetition Time)": 1,
    },
    "features_labels": {
        "Manufacturer Model Name": {0: "SIGNA HDx", 1: "Avanto", 2: "TrioTim"},
        "Scan Options": {0: r"SAT_GEMS\FS", 1: r"PFP\FS"},
        "Field Strength (Tesla)": {0: np.float64(3.0), 1: np.float64(1.5)},
    },
    "features_scale": {
        "Flip Angle": np.float64(12.0),
        "Slice Thickness": np.float64(2.5),
        "TE (Echo Time)": np.float64(2.8),
        "TR (Repetition Time)": np.float64(8.0),
    },
}
#: Columns of a condition vector.
WIDTH = 11

#: As published.
FULL_SIZE = {
    "num_res_blocks": 2,
    "num_channels": (64, 64, 128, 128, 256, 256),
    "attention_levels": (False, False, True, False, True, False),
    "num_head_channels": 8,
}
SMALL = {
    "num_res_blocks": 1,
    "num_channels": (32, 32, 64),
    "attention_levels": (False, True, True),
    "num_head_channels": 8,
}


class AuthorsUNet(DiffusionModelUNet):
    """Their U-Net: monai-generative's, with two modules replaced after construction."""

    def __init__(self, num_channels: Sequence[int], num_class_embeds: int, **more: Any) -> None:
        super().__init__(num_channels=num_channels, num_class_embeds=num_class_embeds, **more)
        wide = num_channels[0] * 4
        self.time_embed = nn.Sequential(nn.Linear(num_channels[0], wide), nn.SiLU(), nn.Linear(wide, wide))
        self.class_embedding = nn.Sequential(nn.Linear(num_class_embeds, wide, bias=False), nn.SiLU())


def random_weights(network: nn.Module) -> nn.Module:
    """Draw every weight, those that begin at zero too, so that each has an influence."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return network.eval()


def editor(size: dict[str, Any]) -> AuthorsUNet:
    network = AuthorsUNet(
        spatial_dims=2, in_channels=1, out_channels=1, transformer_num_layers=1, **size,
        with_conditioning=(True,), cross_attention_dim=WIDTH, num_class_embeds=WIDTH,
    )  # fmt: skip
    random_weights(network)
    return network


def predictor() -> ResNet:
    network = ResNet(
        block="basic", layers=[2, 2, 2, 2], block_inplanes=[64, 128, 256, 512], spatial_dims=2, n_input_channels=1,
        conv1_t_stride=2, num_classes=WIDTH,
    )  # fmt: skip
    random_weights(network)
    return network


def segmenter() -> UNet:
    network = UNet(**_unet_hprams())
    random_weights(network)
    return network


def editor_settings(size: dict[str, Any], image_size: int = 64) -> dict[str, Any]:
    return {
        "model_hparams": {
            "spatial_size": (image_size, image_size),
            "batch_size": 32,
            "features_dim": WIDTH,
            "conditioning": "hybrid",
            "features_dropout": 0.15,
            "with_segmentation": False,
            "segmentation_dropout": 0.0,
        },
        "unet_hprams": {
            **size,
            "spatial_dims": 2,
            "out_channels": 1,
            "transformer_num_layers": 1,
            "use_flash_attention": True,
        },
        "noise_scheduler_hprams": {"schedule": "cosine", "num_train_timesteps": 1000, "prediction_type": "epsilon"},
        "optimizer_name": "Adam",
        "optimizer_hparams": {"lr": 1e-4, "weight_decay": 1e-3},
        "scheduler_name": None,
        "scheduler_hparams": None,
        "test_params": {"guidance_scale": 5, "steps": 25},
    }


def predictor_settings(image_size: int = 64) -> dict[str, Any]:
    return {
        "model_hparams": {"batch_size": 512, "spatial_size": (image_size, image_size)},
        "optimizer_name": "Adam",
        "optimizer_hparams": {"lr": 1e-5, "weight_decay": 1e-4},
        **FEATURES,
        "catg_features_weights": {"Field Strength (Tesla)": np.array([0.5, 1.5])},
    }


def segmenter_settings(image_size: int = 64) -> dict[str, Any]:
    hparams = {"batch_size": 256, "spatial_size": (image_size, image_size), "loss": "dice", "include_background": True}
    return {"model_hparams": {**hparams, "weights": None}, "unet_hprams": _unet_hprams()}


def write_checkpoint(path: Path, network: nn.Module, settings: dict[str, Any] | None, **more: Tensor) -> Path:
    """Write what Lightning writes for a module that keeps its network as ``model``."""
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    content = {
        "epoch": 14, "global_step": 100, "pytorch-lightning_version": "2.4.0", "state_dict": {**state, **more},
        "optimizer_states": [], "lr_schedulers": [], "hparams_name": "kwargs", "hyper_parameters": settings,
    }  # fmt: skip
    torch.save(content, path)
    return path


def _unet_hprams() -> dict[str, Any]:
    return {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (32, 64, 128, 256, 512, 512),
        "strides": (2, 2, 2, 2, 2), "num_res_units": 2, "dropout": 0, "norm": Norm.BATCH,
    }  # fmt: skip
