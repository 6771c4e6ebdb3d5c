"""The tasks of `structure_editor`."""

from __future__ import annotations

from lib.configs.model_config import ModelConfig
from lib.infers.structure_editor import StructureEditorTask
from lib.trainers.structure_editor import StructureEditorTrainer


class StructureEditorConfig(ModelConfig):
    """Inference and training of `structure_editor`."""

    def infer(self) -> StructureEditorTask:
        """Return the inference task."""
        return StructureEditorTask(self.models)

    def trainer(self) -> StructureEditorTrainer:
        """Return the training task."""
        return StructureEditorTrainer(self.models)
