"""Train the lesion segmenter that judges edits, on other patients than the editors learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cfmri_core.data.lesion_scans import LesionScan, cut, load_lesion_scans
from cfmri_core.data.splits import stratified_split
from cfmri_core.data.studies import Study, list_studies
from cfmri_core.models.direct_editor import with_neighbours
from cfmri_core.models.lesion_segmenter import LesionSegmenter
from cfmri_core.progress import Progress, silent
from cfmri_core.training.card import model_card
from cfmri_core.training.loop import Schedule, train

#: Share of patches about a lesion; the others lie anywhere in a breast.
LESION_SHARE = 0.5
_OFF_CENTRE = 20


def train_lesion_segmenter(
    data: Path | Sequence[Study],
    output: Path,
    *,
    preset: str = "tiny",
    iterations: int = 1_000,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    validation_share: float = 0.15,
    seed: int = 0,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Path:
    """Train a lesion segmenter and write it as a model folder.

    Args:
        data: Folder of studies, or the studies; those without a lesion mask are left out.
        output: Receives ``model``, ``checkpoint.pt`` and TensorBoard ``events``.
        preset: Size of the network.
        iterations: Optimiser steps.
        batch_size: Patches per step.
        learning_rate: Peak learning rate.
        validation_share: Share of subjects held back to choose the best weights.
        seed: Seed of split, weights and batches.
        resume: Go on from the checkpoint in ``output``.
        device: Torch device.
        progress: Progress and cancel.

    Returns:
        The model folder, ``output/model``.

    Raises:
        RequestError: No study has a lesion mask.
    """
    torch.manual_seed(seed)
    segmenter = LesionSegmenter.create(preset)
    segmenter.network.to(device)
    studies = [study for study in (list_studies(data) if isinstance(data, Path) else data) if study.lesion_path]
    scans = load_lesion_scans(studies, segmenter.config.pixel_mm, progress)
    shares = (1 - validation_share, validation_share)
    split = stratified_split([study.patient for study in studies], [scan.parameters for scan in scans], shares, seed)
    fit, held_back = ([scans[n] for n in part] for part in split)
    score = train(
        segmenter.network,
        LesionSegmentationLoss(segmenter, fit, batch_size),
        _Validation(segmenter, held_back or fit),
        output,
        Schedule(iterations=iterations, learning_rate=learning_rate, average_decay=0.99, validate_every=100, seed=seed),
        resume=resume,
        progress=progress,
    )
    judged = "held-back subjects" if held_back else "its own training subjects, none being held back"
    segmenter.save(output / "model", _card(data, len(fit), iterations, seed, f"on {judged}: {score:.3f}"))
    return output / "model"


class LesionSegmentationLoss:
    """Dice plus cross-entropy on patches, brightness and contrast jittered."""

    def __init__(self, segmenter: LesionSegmenter, scans: Sequence[LesionScan], batch_size: int) -> None:
        self.segmenter, self.scans, self.batch_size = segmenter, scans, batch_size
        self.dice = DiceLoss(sigmoid=True, batch=True)
        self.seen = [with_neighbours(scan.images.float()[:, None]) for scan in scans]
        self.lesions = [(scan.lesions > 0).nonzero() for scan in scans]
        self.breast = [scan.breast.nonzero() for scan in scans]

    def __call__(self, network: nn.Module, generator: torch.Generator) -> Tensor:
        """Draw a batch and return its loss."""
        images, labels = self.draw(self.batch_size, generator)
        gain = 0.8 + 0.4 * torch.rand(self.batch_size, 1, 1, 1, generator=generator)
        return self.of(network, images * gain, labels)

    def of(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Loss of given patches."""
        device = next(network.parameters()).device
        logits = LesionSegmenter(network, self.segmenter.config).logits(images.to(device))
        wanted = labels.to(device)
        value: Tensor = self.dice(logits, wanted) + binary_cross_entropy_with_logits(logits, wanted)
        return value

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw patches ``(count, SLICES_SEEN, size, size)`` and their labels ``(count, 1, size, size)``."""
        items = [self._item(generator) for _ in range(count)]
        images, labels = (torch.stack(parts) for parts in zip(*items, strict=True))
        mirrored = (torch.rand(count, generator=generator) < 0.5)[:, None, None, None]
        return torch.where(mirrored, images.flip(-1), images), torch.where(mirrored, labels.flip(-1), labels)

    def choose(self, generator: torch.Generator) -> tuple[int, bool]:
        """Choose the scan of a patch, and whether it lies about a lesion of it."""
        number = int(torch.randint(len(self.scans), (), generator=generator))
        return number, float(torch.rand((), generator=generator)) < LESION_SHARE and len(self.lesions[number]) > 0

    def _item(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        number, about_lesion = self.choose(generator)
        places = self.lesions[number] if about_lesion else self.breast[number]
        k, row, column = places[int(torch.randint(len(places), (), generator=generator))].tolist()
        size = self.segmenter.config.image_size
        shift = torch.randint(-_OFF_CENTRE, _OFF_CENTRE + 1, (2,), generator=generator).tolist()
        scan, seen = self.scans[number], self.seen[number]
        rows, columns = seen.shape[-2:]
        top = min(max(row + shift[0] - size // 2, 0), max(rows - size, 0))
        left = min(max(column + shift[1] - size // 2, 0), max(columns - size, 0))
        centre = (top + size // 2, left + size // 2)
        return cut(seen[k][None], centre, size)[0], (scan.patch(scan.lesions, k, centre, size) > 0).float()[None]


class _Validation:
    """The loss on fixed patches of held-back subjects."""

    def __init__(self, segmenter: LesionSegmenter, scans: Sequence[LesionScan], count: int = 96) -> None:
        self.loss = LesionSegmentationLoss(segmenter, scans, count)
        self.images, self.labels = self.loss.draw(count, torch.Generator().manual_seed(7))

    def __call__(self, network: nn.Module) -> float:
        with torch.no_grad():
            return float(self.loss.of(network, self.images, self.labels))


def _card(data: Path | Sequence[Study], subjects: int, iterations: int, seed: int, score: str) -> str:
    where = data if isinstance(data, Path) else "DATA"
    return model_card(
        "Lesion segmenter",
        "Plain U-Net on slices with their neighbours: lesion or not. It judges edits of lesions; no edit uses it.",
        data=f"{subjects} training subjects with lesion masks.",
        command=f"cfmri train lesion-segmenter {where} --iterations {iterations} --seed {seed}",
        performance=f"Dice loss plus cross-entropy {score}.",
        limitations="Trained on simulated lesions, whose look is invented. No detector for patients.",
    )
