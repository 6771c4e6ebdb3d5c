"""Retrain the predictor of acquisition parameters."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.progress import Progress
from cfmri_core.training.iap_predictor import train_iap_predictor
from lib.trainers.model_trainer import ModelTrainer


class IapPredictorTrainer(ModelTrainer[TrainParams]):
    """Trains on all images with known acquisition parameters; labels are not needed."""

    schema = TrainParams
    model = "iap_predictor"
    kind = "iap_predictor"
    summary = "Train the predictor of acquisition parameters on the images of the datastore"
    default_epochs = 50

    def train(
        self, data: Path, output: Path, iterations: int, params: TrainParams, device: str, progress: Progress
    ) -> Path:
        """Train a predictor."""
        return train_iap_predictor(
            data, output, preset=params.preset, iterations=iterations, seed=params.seed,
            start_from=self.start_from(params), device=device, progress=progress,
        )  # fmt: skip
