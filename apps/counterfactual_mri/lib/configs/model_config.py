"""What the task configurations share."""

from __future__ import annotations

from cfmri_server.served_models import ServedModels
from monailabel.interfaces.config import TaskConfig


class ModelConfig(TaskConfig):
    """A task configuration that knows the app's models.

    Args:
        models: The app's models.
    """

    def __init__(self, models: ServedModels) -> None:
        super().__init__()
        self.models = models
