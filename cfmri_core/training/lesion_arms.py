"""Train one lesion segmenter per arm and seed from few real lesions: does it help to insert more?

Every arm of a seed has the same real lesions, the same scans without lesion, equally many optimiser steps from the same
new weights, and half of its patches about a lesion. Patches elsewhere come from all scans alike, those without lesion
among them, in every arm: what no arm has alone is not compared. Arms differ in two things only: with `classical`
MONAI's transforms are applied to the patches, with `inserted` half of the patches about a lesion show an inserted one.

The editor that inserts learned from other lesions than these few, so that `inserted` knows more than the other arms:
what the editor learned elsewhere is what is brought in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cfmri_core.data.lesion_scans import LesionScan, load_healthy_scans, load_lesion_scans
from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.io.nifti import read_nifti
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.progress import Progress, silent
from cfmri_core.training.augmentation import Batch, Classical
from cfmri_core.training.card import model_card
from cfmri_core.training.inserted_lesions import HealthyScan, InsertionPlan, Insertions, insertions
from cfmri_core.training.lesion_segmenter import LESION_SHARE, LesionSegmentationLoss
from cfmri_core.training.lesion_shapes import LesionShape
from cfmri_core.training.loop import Schedule, train

NONE, CLASSICAL, INSERTED, INSERTED_CLASSICAL = "none", "classical", "inserted", "inserted+classical"
#: The arms by name. `none` mirrors patches left to right, as all do, and that is all.
LESION_ARMS = (NONE, CLASSICAL, INSERTED, INSERTED_CLASSICAL)
#: Share of the patches about a lesion that show an inserted one.
INSERTED_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class LesionRecipe:
    """What every arm has in common.

    Attributes:
        lesions: Real lesions of each training: scans, with all lesions of each.
        preset: Size of the network.
        iterations: Optimiser steps; the weights of the last are used, none are chosen.
        batch_size: Patches per step.
        learning_rate: Peak learning rate.
        device: Torch device.
    """

    lesions: int = 10
    preset: str = "tiny"
    iterations: int = 600
    batch_size: int = 16
    learning_rate: float = 2e-3
    device: str = "cpu"


@dataclass(frozen=True)
class TrainedArm:
    """A lesion segmenter and what it was trained on.

    Attributes:
        segmenter: As read back from its folder.
        real: Names of the scans with real lesions.
        inserted: Number of scans with an inserted lesion.
        skipped: Number of insertions that could not be made.
    """

    segmenter: LesionSegmenter
    real: Sequence[str]
    inserted: int = 0
    skipped: int = 0


def require_lesion_arm(name: str) -> None:
    """Refuse an arm that is none.

    Raises:
        RequestError: There is no such arm.
    """
    if name not in LESION_ARMS:
        raise RequestError(f"'{name}' is not an arm.", f"Use some of: {', '.join(LESION_ARMS)}.")


class LesionArmTrainer:
    """Trains lesion segmenters that differ in arm and seed, and in nothing else.

    A seed draws the real lesions out of those given, the inserted ones, first weights and batches.

    Args:
        real: Studies with lesion masks; others are left out.
        healthy: Studies of other patients without lesion.
        plan: Which lesions to insert.
        recipe: What all arms have in common.
        progress: Called while studies are read.

    Raises:
        RequestError: There are fewer real lesions than the recipe wants, or a healthy study has a lesion mask.
    """

    def __init__(
        self,
        real: Sequence[Study],
        healthy: Sequence[Study],
        plan: InsertionPlan,
        recipe: LesionRecipe,
        progress: Progress = silent,
    ) -> None:
        self.plan, self.recipe = plan, recipe
        self.pixel_mm = LesionSegmenter.create(recipe.preset).config.pixel_mm
        self.studies = [study for study in real if study.lesion_path]
        if len(self.studies) < recipe.lesions:
            raise RequestError(
                f"{len(self.studies)} studies have a lesion mask, {recipe.lesions} are wanted.", "Lower --lesions."
            )
        self.scans = load_lesion_scans(self.studies, self.pixel_mm, progress)
        free = load_healthy_scans(healthy, self.pixel_mm, progress)
        self.healthy = [HealthyScan(*pair) for pair in zip(healthy, free, strict=True)]

    def real_of(self, seed: int) -> list[int]:
        """Return which real scans the arms of a seed are trained on."""
        order = np.random.default_rng((seed, 22)).permutation(len(self.studies))
        return sorted(int(number) for number in order[: self.recipe.lesions])

    def inserted_of(self, seed: int, progress: Progress = silent) -> Insertions:
        """Return the scans with inserted lesions of a seed; their shapes are those of its real lesions alone."""
        paths = [self.studies[number].lesion_path for number in self.real_of(seed)]
        shapes = [LesionShape.of(read_nifti(path)) for path in paths if path]
        return insertions(self.healthy, shapes, self.plan, self.pixel_mm, seed, progress)

    def __call__(self, arm: str, seed: int, folder: Path, progress: Progress = silent) -> TrainedArm:
        """Train one segmenter; interrupted, the same call goes on from the checkpoint in ``folder``.

        Raises:
            RequestError: There is no such arm.
        """
        require_lesion_arm(arm)
        recipe, chosen = self.recipe, self.real_of(seed)
        made = self.inserted_of(seed, progress) if arm in (INSERTED, INSERTED_CLASSICAL) else Insertions((), 0)
        torch.manual_seed(seed)
        segmenter = LesionSegmenter.create(recipe.preset)
        segmenter.network.to(recipe.device)
        sources = ArmScans([self.scans[n] for n in chosen], [one.scan for one in self.healthy], made.scans)
        loss = ArmLoss(segmenter, sources, recipe.batch_size, arm in (CLASSICAL, INSERTED_CLASSICAL))
        rate, steps = recipe.learning_rate, recipe.iterations
        # With ten lesions none can be spared to choose weights by: those of the last step are taken.
        schedule = Schedule(iterations=steps, learning_rate=rate, average_decay=0.99, validate_every=steps, seed=seed)
        score = train(segmenter.network, loss, loss.on_real, folder, schedule, resume=True, progress=progress)
        segmenter.save(folder / "model", _card(arm, sources, recipe, seed, score))
        (folder / "checkpoint.pt").unlink()
        trained = LesionSegmenter.load(folder / "model", recipe.device)
        return TrainedArm(trained, [self.studies[n].subject_id for n in chosen], len(made.scans), made.skipped)


@dataclass(frozen=True)
class ArmScans:
    """The scans of one training.

    Attributes:
        real: With real lesions.
        healthy: Without lesion.
        inserted: With inserted lesions; empty in the arms without.
    """

    real: Sequence[LesionScan]
    healthy: Sequence[LesionScan]
    inserted: Sequence[LesionScan] = ()


class ArmLoss(LesionSegmentationLoss):
    """Dice plus cross-entropy on the patches of an arm.

    Args:
        segmenter: For its size.
        scans: What patches are drawn from.
        batch_size: Patches per step.
        is_classical: Whether MONAI's transforms are applied to them.
    """

    def __init__(self, segmenter: LesionSegmenter, scans: ArmScans, batch_size: int, is_classical: bool) -> None:
        super().__init__(segmenter, [*scans.real, *scans.healthy, *scans.inserted], batch_size)
        self.real = range(len(scans.real))
        self.others = range(len(scans.real) + len(scans.healthy))
        self.inserted = range(len(self.others), len(self.scans))
        self.classical = Classical() if is_classical else None

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch, transform it as the arm does, and return its loss."""
        images, labels = self.draw(self.batch_size, generator)
        if self.classical:
            batch = self.classical(Batch(images, labels[:, 0].long(), torch.arange(len(images))), generator)
            images, labels = batch.images, batch.labels[:, None].float()
        return self.of(network, images, labels)

    def choose(self, generator: torch.Generator) -> tuple[int, bool]:
        """Choose a real or an inserted lesion, or any scan as it is: half and half, whatever their numbers."""
        about, shown = torch.rand(2, generator=generator).tolist()
        if about >= LESION_SHARE:
            return _one_of(self.others, generator), False
        is_inserted = len(self.inserted) > 0 and shown < INSERTED_SHARE
        return _one_of(self.inserted if is_inserted else self.real, generator), True

    def on_real(self, network: nn.Module) -> float:
        """Return the loss on fixed patches of the training scans as they are; it chooses nothing."""
        with torch.no_grad():
            images, labels = self.draw(self.batch_size, torch.Generator().manual_seed(7))
            return float(self.of(network, images, labels))


def _one_of(numbers: range, generator: torch.Generator) -> int:
    return numbers[int(torch.randint(len(numbers), (), generator=generator))]


def _card(arm: str, scans: ArmScans, recipe: LesionRecipe, seed: int, score: float) -> str:
    return model_card(
        "Lesion segmenter of a comparison",
        f"Plain U-Net on slices with their neighbours: lesion or not. Arm '{arm}', seed {seed}.",
        data=f"{len(scans.real)} scans with real lesions, {len(scans.healthy)} without, {len(scans.inserted)} with "
        "inserted ones.",
        command=f"cfmri lesion-study REAL --arms {arm} --lesions {recipe.lesions} --iterations {recipe.iterations}",
        performance=f"Dice loss plus cross-entropy on its own training scans: {score:.3f}.",
        limitations="Trained to compare arms, on few lesions. No detector for patients.",
    )
