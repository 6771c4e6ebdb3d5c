"""Retrain the structure editor on the images of the datastore."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.training.structure_editor import train_structure_editor
from lib.trainers.model_trainer import ModelTrainer, TrainingRun


class StructureEditorTrainer(ModelTrainer[TrainParams]):
    """Trains on all images with known acquisition parameters.

    Breast and share are read with the segmenter of the model in use; a new model trains its own, from labels.
    """

    schema = TrainParams
    model = "structure_editor"
    kind = "structure_editor"
    summary = "Train the structure editor, and fine-tune it on counterfactuals, on the images of the datastore"
    default_epochs = 40

    def train(self, run: TrainingRun, params: TrainParams) -> Path:
        """Train a structure editor."""
        return train_structure_editor(
            run.studies, run.folder.path, preset=params.preset, iterations=run.iterations, seed=params.seed,
            start_from=self.start_from(params), resume=True, device=run.device, progress=run.progress,
        )  # fmt: skip
