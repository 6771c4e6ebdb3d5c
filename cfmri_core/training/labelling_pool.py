"""A pool of cases whose labels are revealed one after the other: what an active-learning study trains on."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfmri_core.active_learning.disagreement import Views, counterfactual_views, disagreement, other_protocols
from cfmri_core.active_learning.next_case import Case
from cfmri_core.data.studies import Study, load_slices
from cfmri_core.errors import RequestError
from cfmri_core.io.json_text import json_text
from cfmri_core.io.scan import read_scan
from cfmri_core.models.segmenter import Segmenter
from cfmri_core.pipeline.method import AnyEditor
from cfmri_core.progress import Progress, silent
from cfmri_core.training.augmentation import augmentation_of, needs_counterfactuals
from cfmri_core.training.counterfactuals import fingerprint, read_or_make
from cfmri_core.training.segmenter import fit_segmenter, labelled_studies, schedule_of, segmenter_card


@dataclass(frozen=True, kw_only=True)
class PoolRecipe:
    """How every segmenter of a study is trained, however many labels there are.

    Attributes:
        augmentation: One of `cfmri_core.training.augmentation.AUGMENTATIONS`; the counterfactual ones show each case
            under the protocols that its disagreement is measured over.
        preset: Size of the network.
        iterations: Optimiser steps. The last weights count, so that no label is spent on choosing among them.
        batch_size: Slices per step.
        device: Torch device.
    """

    augmentation: str
    preset: str = "tiny"
    iterations: int = 300
    batch_size: int = 8
    device: str = "cpu"


class LabellingPool:
    """Labelled studies whose labels only the chosen cases lend to training.

    Args:
        studies: Studies; those without labels are left out.
        editor: Makes the counterfactuals; of the kind that the method needs.
        method: One of `cfmri_core.pipeline.method.METHODS`.
        cache: Folder that keeps the counterfactuals.
        recipe: How segmenters are trained.
        progress: Called while studies are read and counterfactuals made.

    Raises:
        RequestError: No study is labelled, or two have the same name.
    """

    def __init__(
        self, studies: Sequence[Study], editor: AnyEditor, method: str, cache: Path, recipe: PoolRecipe,
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        self.recipe, self.method = recipe, method
        labelled = labelled_studies(studies)
        size = Segmenter.create(recipe.preset).image_size
        self.slices = load_slices(labelled, size, with_labels=True, progress=progress)
        names = [study.subject_id for study in labelled]
        if len(set(names)) < len(names):
            raise RequestError("Two studies of the pool have the same name.", "Rename one of their folders.")
        self.cases = tuple(
            Case(name, acquisition) for name, acquisition in zip(names, self.slices.parameters, strict=True)
        )
        self._index = {name: number for number, name in enumerate(names)}
        self._views: list[Views] = []
        for number, study in enumerate(labelled):
            self._views.append(self._read_views(number, study, editor, cache))
            progress(number + 1, len(labelled), "counterfactuals of the pool")

    def train(self, names: Sequence[str], seed: int, folder: Path, progress: Progress = silent) -> Segmenter:
        """Train a segmenter on the labels of some cases; the seed decides first weights and batches."""
        recipe, chosen = self.recipe, [self._index[name] for name in sorted(names)]
        training = self.slices.of_subjects(chosen)
        torch.manual_seed(seed)
        segmenter = Segmenter.create(recipe.preset)
        segmenter.network.to(recipe.device)
        schedule = dataclasses.replace(schedule_of(recipe.iterations, seed), validate_every=recipe.iterations)
        score = fit_segmenter(
            segmenter, training, training, folder, augmentation=augmentation_of(
                recipe.augmentation, training, self._variants(chosen)
            ), schedule=schedule, batch_size=recipe.batch_size, progress=progress,
        )  # fmt: skip
        card = segmenter_card([], training, training, recipe.augmentation, recipe.iterations, seed, score)
        segmenter.save(folder / "model", card)
        (folder / "checkpoint.pt").unlink()
        shutil.rmtree(folder / "events")
        return Segmenter.load(folder / "model", recipe.device)

    def disagreements(self, segmenter: Segmenter, names: Sequence[str]) -> dict[str, float]:
        """Return how much the segmentation of each case changes over its counterfactuals; labels are not looked at."""
        return {name: disagreement(self._views[self._index[name]], segmenter) for name in names}

    def _variants(self, chosen: Sequence[int]) -> list[Tensor]:
        if not needs_counterfactuals(self.recipe.augmentation):
            return []
        fewest = min(len(self._views[number].counterfactuals) for number in chosen)
        return [torch.cat([self._views[number].counterfactuals[k] for number in chosen]) for k in range(fewest)]

    def _read_views(self, number: int, study: Study, editor: AnyEditor, cache: Path) -> Views:
        images = self.slices.images[self.slices.subject == number]
        acquisition = self.slices.parameters[number]
        protocols = other_protocols(acquisition)

        def make() -> Tensor:
            volume = read_scan(study.scan_path).volume
            views = counterfactual_views(volume, acquisition, editor, images.shape[-1], method=self.method)
            if views.scan.shape != images.shape:
                raise RequestError(f"{study.scan_path} has empty slices.", "Crop it to those that show something.")
            return torch.stack(list(views.counterfactuals))

        decides = [editor.identity, fingerprint(images, acquisition), self.method, protocols]
        key = hashlib.sha256(json_text(decides, indent=None).encode()).hexdigest()
        shape = torch.Size((len(protocols), *images.shape))
        return Views(images, tuple(read_or_make(cache / f"{key}.npy", shape, make)))
