"""Retrain the lesion editor on the images of the datastore whose lesions are marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cfmri_server.request_schema import TrainParams

from cfmri_core.data.studies import Study
from cfmri_core.errors import RequestError
from cfmri_core.training.lesion_editor import train_lesion_editor
from lib.trainers.model_trainer import ModelTrainer, TrainingRun


class LesionEditorTrainer(ModelTrainer[TrainParams]):
    """Trains on the images that have a mask under ``labels/lesion``."""

    schema = TrainParams
    model = "lesion_editor"
    kind = "lesion_editor"
    summary = "Fine-tune the lesion editor on the images whose lesions are marked (label tag 'lesion')"
    default_epochs = 100

    def usable(self, studies: Sequence[Study]) -> Sequence[Study]:
        """Return the studies with a lesion mask."""
        found = [study for study in studies if study.lesion_path]
        if not found:
            raise RequestError("There is no image with a lesion mask.", "Submit one with the label tag 'lesion'.")
        return found

    def train(self, run: TrainingRun, params: TrainParams) -> Path:
        """Fine-tune the lesion editor in use."""
        return train_lesion_editor(
            run.studies, run.folder.path, preset=params.preset, iterations=run.iterations, seed=params.seed,
            start_from=self.start_from(params), resume=True, device=run.device, progress=run.progress,
        )  # fmt: skip
