"""The tasks of `counterfactual`."""

from __future__ import annotations

from lib.configs.model_config import ModelConfig
from lib.infers.counterfactual import CounterfactualTask
from lib.trainers.counterfactual import CounterfactualTrainer


class CounterfactualConfig(ModelConfig):
    """Inference and training of `counterfactual`."""

    def infer(self) -> CounterfactualTask:
        """Return the inference task."""
        return CounterfactualTask(self.models)

    def trainer(self) -> CounterfactualTrainer:
        """Return the training task."""
        return CounterfactualTrainer(self.models)
