"""The tasks of `iap_predictor`."""

from __future__ import annotations

from lib.configs.model_config import ModelConfig
from lib.infers.iap_predictor import IapPredictorTask
from lib.trainers.iap_predictor import IapPredictorTrainer


class IapPredictorConfig(ModelConfig):
    """Inference and training of `iap_predictor`."""

    def infer(self) -> IapPredictorTask:
        """Return the inference task."""
        return IapPredictorTask(self.models)

    def trainer(self) -> IapPredictorTrainer:
        """Return the training task."""
        return IapPredictorTrainer(self.models)
