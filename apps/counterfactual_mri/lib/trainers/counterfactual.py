"""Retrain the counterfactual editor."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.progress import Progress
from cfmri_core.training.editor import train_editor
from lib.trainers.model_trainer import ModelTrainer


class CounterfactualTrainer(ModelTrainer[TrainParams]):
    """Trains on all images with known acquisition parameters; labels are not needed."""

    schema = TrainParams
    model = "counterfactual"
    kind = "editor"
    summary = "Fine-tune the counterfactual editor on the images of the datastore"
    default_epochs = 100

    def train(
        self, data: Path, output: Path, iterations: int, params: TrainParams, device: str, progress: Progress
    ) -> Path:
        """Fine-tune the editor in use."""
        return train_editor(
            data, output, preset=params.preset, iterations=iterations, seed=params.seed,
            start_from=self.start_from(params), device=device, progress=progress,
        )  # fmt: skip
