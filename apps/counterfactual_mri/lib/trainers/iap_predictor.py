"""Retrain the predictor of acquisition parameters."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.training.iap_predictor import train_iap_predictor
from lib.trainers.model_trainer import ModelTrainer, TrainingRun


class IapPredictorTrainer(ModelTrainer[TrainParams]):
    """Trains on all images with known acquisition parameters; labels are not needed."""

    schema = TrainParams
    model = "iap_predictor"
    kind = "iap_predictor"
    summary = "Train the predictor of acquisition parameters on the images of the datastore"
    default_epochs = 50

    def train(self, run: TrainingRun, params: TrainParams) -> Path:
        """Train a predictor."""
        return train_iap_predictor(
            run.studies, run.folder.path, preset=params.preset, iterations=run.iterations, seed=params.seed,
            start_from=self.start_from(params), resume=True, device=run.device, progress=run.progress,
        )  # fmt: skip
