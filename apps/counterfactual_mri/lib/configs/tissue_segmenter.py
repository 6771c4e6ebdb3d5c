"""The tasks of `tissue_segmenter`."""

from __future__ import annotations

from lib.configs.model_config import ModelConfig
from lib.infers.tissue_segmenter import TissueSegmenterTask
from lib.trainers.tissue_segmenter import TissueSegmenterTrainer


class TissueSegmenterConfig(ModelConfig):
    """Inference and training of `tissue_segmenter`."""

    def infer(self) -> TissueSegmenterTask:
        """Return the inference task."""
        return TissueSegmenterTask(self.models)

    def trainer(self) -> TissueSegmenterTrainer:
        """Return the training task."""
        return TissueSegmenterTrainer(self.models)
