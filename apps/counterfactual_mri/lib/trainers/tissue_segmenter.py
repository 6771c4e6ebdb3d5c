"""Retrain the tissue segmenter on the labelled images of the datastore."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.parameters import SEGMENTER_TRAIN_OPTIONS
from cfmri_server.request_schema import SegmenterTrainParams

from cfmri_core.progress import Progress
from cfmri_core.training.augmentation import needs_counterfactuals
from cfmri_core.training.counterfactuals import CounterfactualPlan
from cfmri_core.training.segmenter import train_segmenter
from lib.trainers.model_trainer import ModelTrainer


class TissueSegmenterTrainer(ModelTrainer[SegmenterTrainParams]):
    """Trains on ``labels/final``, by default on each image as other scanners would have shown it as well."""

    schema = SegmenterTrainParams
    model = "tissue_segmenter"
    kind = "segmenter"
    summary = "Train the tissue segmenter on the labelled images of the datastore, with counterfactual augmentation"
    options = SEGMENTER_TRAIN_OPTIONS
    default_epochs = 30

    def train(
        self, data: Path, output: Path, iterations: int, params: SegmenterTrainParams, device: str, progress: Progress
    ) -> Path:
        """Train a segmenter; the editor in use makes the counterfactuals."""
        plan = None
        if needs_counterfactuals(params.augmentation):
            method = self.models.default_method()
            plan = CounterfactualPlan(
                editor=self.models.editor_for(method).get(device),
                method=method,
                per_volume=params.counterfactuals_per_volume,
                seed=params.seed,
            )
        return train_segmenter(
            data,
            output,
            preset=params.preset,
            augmentation=params.augmentation,
            counterfactuals=plan,
            iterations=iterations,
            seed=params.seed,
            start_from=self.start_from(params),
            device=device,
            progress=progress,
        )
