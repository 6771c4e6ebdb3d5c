"""Train one segmenter per training set, arm and seed from scans that are read once: a comparison of augmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfmri_core.data.studies import Study, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.progress import Progress, silent
from cfmri_core.simulation.population import vendor
from cfmri_core.training.augmentation import augmentation_of, needs_counterfactuals
from cfmri_core.training.counterfactuals import CounterfactualPlan, counterfactual_images, scan_paths
from cfmri_core.training.segmenter import fit_segmenter, labelled_studies, schedule_of, segmenter_card, split_slices


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every arm has in common.

    Attributes:
        preset: Size of the network.
        iterations: Optimiser steps.
        batch_size: Slices per step.
        validation_share: Share of the training subjects that chooses the best weights.
        device: Torch device.
    """

    preset: str = "tiny"
    iterations: int = 600
    batch_size: int = 16
    validation_share: float = 0.2
    device: str = "cpu"


class ArmTrainer:
    """Trains segmenters that differ in training set, augmentation and seed, and in nothing else.

    Every training set holds equally many subjects: as many as the vendor with the fewest has, made even.
    One of several vendors takes an equal part of each. A seed decides split, first weights and batches.

    Args:
        studies: Labelled studies; their paired renderings are never read.
        vendors: Vendors to compare, as `cfmri_core.simulation.population.vendor` calls them; others are left out.
        plan: Counterfactuals of the arms that use them.
        recipe: What all arms have in common.
        progress: Called while studies are read.

    Raises:
        RequestError: A vendor has fewer than two labelled subjects.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        vendors: Sequence[str],
        plan: CounterfactualPlan,
        recipe: Recipe,
        progress: Progress = silent,
    ) -> None:
        self.plan, self.recipe = plan, recipe
        size = Segmenter.create(recipe.preset).image_size
        labelled = labelled_studies(studies)
        self.slices = load_slices(labelled, size, with_labels=True, progress=progress)
        self.scans = scan_paths(self.slices, labelled)
        self.by_vendor: dict[str, list[int]] = {name: [] for name in vendors}
        for subject, parameters in enumerate(self.slices.parameters):
            self.by_vendor.get(vendor(parameters.manufacturer), []).append(subject)
        for name, subjects in self.by_vendor.items():
            if len(subjects) < 2:
                raise RequestError(f"Fewer than two labelled training studies are of {name}.", "Add some to the data.")

    @property
    def subjects(self) -> int:
        """Subjects of every training set, those that are held back for validation included."""
        return min(len(subjects) for subjects in self.by_vendor.values()) // 2 * 2

    def training_set(self, vendors: Sequence[str]) -> list[int]:
        """Return the subjects of a training set."""
        share = self.subjects // len(vendors)
        return sorted(subject for name in vendors for subject in self.by_vendor[name][:share])

    def __call__(
        self, vendors: Sequence[str], arm: str, seed: int, folder: Path, progress: Progress = silent
    ) -> Segmenter:
        """Train one segmenter; interrupted, the same call goes on from the checkpoint in ``folder``.

        Returns:
            The segmenter as read back from ``folder/model``.
        """
        recipe = self.recipe
        training, validation = split_slices(
            self.slices.of_subjects(self.training_set(vendors)), recipe.validation_share, seed
        )
        others: list[Tensor] = []
        if needs_counterfactuals(arm):
            others = counterfactual_images(training, self.scans, self.plan, progress)
        torch.manual_seed(seed)
        segmenter = Segmenter.create(recipe.preset)
        segmenter.network.to(recipe.device)
        score = fit_segmenter(
            segmenter, training, validation, folder,
            augmentation=augmentation_of(arm, training, others),
            schedule=schedule_of(recipe.iterations, seed), batch_size=recipe.batch_size, resume=True, progress=progress,
        )  # fmt: skip
        card = segmenter_card([], training, validation, arm, recipe.iterations, seed, score)
        segmenter.save(folder / "model", card)
        (folder / "checkpoint.pt").unlink()
        return Segmenter.load(folder / "model", recipe.device)
