"""The tasks of `lesion_editor`."""

from __future__ import annotations

from lib.configs.model_config import ModelConfig
from lib.infers.lesion_editor import LesionEditorTask
from lib.trainers.lesion_editor import LesionEditorTrainer


class LesionEditorConfig(ModelConfig):
    """Inference and training of `lesion_editor`."""

    def infer(self) -> LesionEditorTask:
        """Return the inference task."""
        return LesionEditorTask(self.models)

    def trainer(self) -> LesionEditorTrainer:
        """Return the training task."""
        return LesionEditorTrainer(self.models)
