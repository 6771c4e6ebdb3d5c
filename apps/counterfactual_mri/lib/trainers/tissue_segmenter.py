"""Retrain the tissue segmenter on the labelled images of the datastore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfmri_server.parameters import SEGMENTER_TRAIN_OPTIONS
from cfmri_server.request_schema import SegmenterTrainParams

from cfmri_core.data.studies import Study
from cfmri_core.pipeline.method import METHODS
from cfmri_core.simulation.population import read_population
from cfmri_core.training.augmentation import needs_counterfactuals
from cfmri_core.training.counterfactuals import CounterfactualPlan
from cfmri_core.training.segmenter import labelled_studies, train_segmenter
from lib.trainers.model_trainer import ModelTrainer, TrainingRun


class TissueSegmenterTrainer(ModelTrainer[SegmenterTrainParams]):
    """Trains on ``labels/final``, by default on each image as other scanners would have shown it as well."""

    schema = SegmenterTrainParams
    model = "tissue_segmenter"
    kind = "segmenter"
    summary = "Train the tissue segmenter on the labelled images of the datastore, with counterfactual augmentation"
    options = SEGMENTER_TRAIN_OPTIONS
    default_epochs = 30
    least_patients = 1

    def usable(self, studies: Sequence[Study]) -> Sequence[Study]:
        """Return the studies with labels."""
        return labelled_studies(studies)

    def kinds_read(self, params: SegmenterTrainParams) -> tuple[str, ...]:
        """Return its own kind, and that of the editor that makes the counterfactuals."""
        makes = needs_counterfactuals(params.augmentation)
        return (*super().kinds_read(params), *((METHODS[self.models.default_method()].model,) if makes else ()))

    def train(self, run: TrainingRun, params: SegmenterTrainParams) -> Path:
        """Train a segmenter; the editor in use makes the counterfactuals."""
        plan = None
        if needs_counterfactuals(params.augmentation):
            method = self.models.default_method()
            plan = CounterfactualPlan(
                editor=self.models.editor_for(method).get(run.device),
                method=method,
                population=read_population(params.population),
                per_volume=params.counterfactuals_per_volume,
                seed=params.seed,
                cache=run.folder.counterfactuals,
            )
        return train_segmenter(
            run.studies,
            run.folder.path,
            preset=params.preset,
            augmentation=params.augmentation,
            counterfactuals=plan,
            iterations=run.iterations,
            seed=params.seed,
            start_from=self.start_from(params),
            resume=True,
            device=run.device,
            progress=run.progress,
        )
