"""What a segmenter sees besides its labelled scans: the arms that are compared with one another.

Every arm trains for the same number of optimiser steps and mirrors slices left to right: that says nothing about
scanners, and would otherwise count for the classical arms alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai import transforms as monai_transforms
from torch import Tensor

from cfmri_core.data.studies import SliceSet
from cfmri_core.errors import RequestError
from cfmri_core.training.contrast_randomisation import ContrastRandomisation

NONE, CLASSICAL, RANDOMISED = "none", "classical", "contrast-randomisation"
COUNTERFACTUAL, COUNTERFACTUAL_CLASSICAL = "counterfactual", "counterfactual+classical"
#: The arms by name.
AUGMENTATIONS = (NONE, CLASSICAL, RANDOMISED, COUNTERFACTUAL, COUNTERFACTUAL_CLASSICAL)
#: Share of a batch that is shown as its counterfactual, or with random contrast, instead of as scanned.
ALTERED_SHARE = 0.5


@dataclass(frozen=True)
class Batch:
    """Slices of one optimiser step.

    Attributes:
        images: Normalised intensity, float32, shape ``(batch, 1, rows, cols)``.
        labels: Tissue labels, int64, shape ``(batch, rows, cols)``.
        chosen: Which slices of the training set these are, int64, shape ``(batch,)``.
    """

    images: Tensor
    labels: Tensor
    chosen: Tensor


#: Changes a batch; everything random comes from the generator, so that a resumed run sees the same.
Augmentation = Callable[[Batch, torch.Generator], Batch]


def needs_counterfactuals(name: str) -> bool:
    """Whether an arm needs an editor.

    Raises:
        RequestError: There is no such arm.
    """
    if name not in AUGMENTATIONS:
        raise RequestError(f"'{name}' is not an augmentation.", f"Use one of: {', '.join(AUGMENTATIONS)}.")
    return name in (COUNTERFACTUAL, COUNTERFACTUAL_CLASSICAL)


def augmentation_of(name: str, slices: SliceSet, counterfactuals: Sequence[Tensor] = ()) -> Augmentation:
    """Return the augmentation of an arm for a training set.

    Args:
        name: One of `AUGMENTATIONS`.
        slices: Training slices with labels, in the order in which batches number them.
        counterfactuals: Other versions of ``slices.images``; needed by the counterfactual arms.

    Raises:
        RequestError: There is no such arm, or it lacks counterfactuals.
    """
    steps: list[Augmentation] = []
    if needs_counterfactuals(name):
        if not counterfactuals:
            raise RequestError(f"The arm '{name}' needs counterfactuals.", "Make at least one of each volume.")
        steps.append(Altered(Variants(counterfactuals)))
    if name == RANDOMISED:
        steps.append(Altered(ContrastRandomisation(slices)))
    if name in (CLASSICAL, COUNTERFACTUAL_CLASSICAL):
        steps.append(Classical())
    return _chain([*steps, mirrored])


def mirrored(batch: Batch, generator: torch.Generator) -> Batch:
    """Mirror half of the slices left to right."""
    which = (torch.rand(len(batch.images), generator=generator) < 0.5)[:, None, None]
    images = torch.where(which[:, None], batch.images.flip(-1), batch.images)
    return Batch(images, torch.where(which, batch.labels.flip(-1), batch.labels), batch.chosen)


@dataclass(frozen=True)
class Altered:
    """Shows part of a batch as something else with the same labels.

    Attributes:
        make: Returns other images of chosen slices, shape ``(batch, 1, rows, cols)``.
        share: Share of the batch that is altered.
    """

    make: Callable[[Tensor, torch.Generator], Tensor]
    share: float = ALTERED_SHARE

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Alter a random part of the batch."""
        others = self.make(batch.chosen, generator)
        shown = torch.rand(len(batch.images), generator=generator) < self.share
        return Batch(torch.where(shown[:, None, None, None], others, batch.images), batch.labels, batch.chosen)


@dataclass(frozen=True)
class Variants:
    """Picks one of several versions of each slice.

    Attributes:
        images: Versions of the whole training set, each shaped ``(slices, 1, rows, cols)``.
    """

    images: Sequence[Tensor]

    def __call__(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Return a random version of the chosen slices."""
        version = torch.randint(len(self.images), (len(chosen),), generator=generator)
        return torch.stack([self.images[int(v)][int(c)] for v, c in zip(version, chosen, strict=True)])


class Classical:
    """MONAI's spatial, intensity and artefact transforms, the same strengths for every training vendor."""

    def __init__(self) -> None:
        both, image = ["image", "label"], ["image"]
        self.transform = monai_transforms.Compose(
            [
                monai_transforms.RandAffined(
                    both, prob=0.5, rotate_range=0.17, shear_range=0.05, translate_range=5, scale_range=0.12,
                    mode=["bilinear", "nearest"], padding_mode="zeros",
                ),
                monai_transforms.RandBiasFieldd(image, prob=0.4, degree=3, coeff_range=(-0.3, 0.3)),
                monai_transforms.RandAdjustContrastd(image, prob=0.5, gamma=(0.6, 1.7)),
                monai_transforms.RandHistogramShiftd(image, prob=0.4, num_control_points=(4, 8)),
                monai_transforms.RandScaleIntensityd(image, prob=0.4, factors=0.25),
                monai_transforms.RandShiftIntensityd(image, prob=0.4, offsets=0.1),
                monai_transforms.RandGaussianSmoothd(image, prob=0.3, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0)),
                monai_transforms.RandGibbsNoised(image, prob=0.3, alpha=(0.0, 0.6)),
                monai_transforms.RandRicianNoised(image, prob=0.4, std=0.06, sample_std=True),
            ]
        )  # fmt: skip

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Transform each slice on its own."""
        self.transform.set_random_state(seed=int(torch.randint(2**31 - 1, (1,), generator=generator)))
        samples = zip(batch.images, batch.labels, strict=True)
        done: list[dict[str, Any]] = [
            self.transform({"image": image, "label": label[None].float()}) for image, label in samples
        ]
        images = torch.stack([torch.as_tensor(sample["image"]) for sample in done])
        labels = torch.stack([torch.as_tensor(sample["label"])[0] for sample in done])
        return Batch(_plain(images), _plain(labels).round().long(), batch.chosen)


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor without MONAI's record of what was done to it."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def _chain(steps: Sequence[Augmentation]) -> Augmentation:
    def run(batch: Batch, generator: torch.Generator) -> Batch:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return run
