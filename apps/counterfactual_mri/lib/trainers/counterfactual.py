"""Retrain the counterfactual editor that learns from scans alone."""

from __future__ import annotations

from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.pipeline.method import METHODS
from cfmri_core.training.editor import train_editor
from lib.trainers.model_trainer import ModelTrainer, TrainingRun


class CounterfactualTrainer(ModelTrainer[TrainParams]):
    """Trains on all images with known acquisition parameters; labels are not needed.

    What is trained is the diffusion editor. That of method fast learns from simulated pairs and is not trained here.
    """

    schema = TrainParams
    model = "counterfactual"
    kind = "editor"
    summary = (
        "Fine-tune the diffusion editor on the images of the datastore: it serves the methods inversion and paper. "
        "Method fast has an editor of its own, which learns from simulated pairs and is not changed"
    )
    default_epochs = 100

    def train(self, run: TrainingRun, params: TrainParams) -> Path:
        """Fine-tune the diffusion editor in use."""
        return train_editor(
            run.studies, run.folder.path, preset=params.preset, iterations=run.iterations, seed=params.seed,
            start_from=self.start_from(params), resume=True, device=run.device, progress=run.progress,
        )  # fmt: skip

    def remark(self) -> str:
        """Tell users of another method that theirs has not changed."""
        default = self.models.default_method()
        if METHODS[default].model == self.kind:
            return ""
        serves = " and ".join(name for name, method in METHODS.items() if method.model == self.kind)
        return f"It serves the methods {serves}; method {default}, used where none is named, is not changed by this."
