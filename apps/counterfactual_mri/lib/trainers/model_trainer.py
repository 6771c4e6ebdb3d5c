"""The part of every training task that is the same: run, report, publish."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from cfmri_server.audit import AuditLog
from cfmri_server.parameters import TRAIN_OPTIONS, PublishedParameter, published
from cfmri_server.request_schema import TrainParams, known_params
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from cfmri_core.errors import CfmriError
from cfmri_core.models.device import resolved_device
from cfmri_core.progress import Progress
from lib.trainers.progress_file import EMPTY_PROGRESS, STEPS_PER_EPOCH, ProgressFile

logger = logging.getLogger("cfmri.training")

Params = TypeVar("Params", bound=TrainParams)


class ModelTrainer(TrainTask, Generic[Params]):
    """Trains one model on the datastore and publishes it. MONAI Label runs it in a process of its own.

    Attributes:
        schema: What the request may hold.
        model: Name of the model in `/info/`.
        kind: Kind of model that is published.
        options: What clients may set.
        default_epochs: Length when none is asked for.
    """

    schema: type[Params]
    model: str
    kind: str
    summary: str
    options: tuple[PublishedParameter, ...] = TRAIN_OPTIONS
    default_epochs: int

    def __init__(self, models: ServedModels) -> None:
        super().__init__(self.summary)
        self.models = models

    @abstractmethod
    def train(self, data: Path, output: Path, iterations: int, params: Params, device: str, progress: Progress) -> Path:
        """Train on a folder of studies and return the model folder."""

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the options."""
        return published(self.options)

    def stats(self) -> dict[str, Any]:
        """Return how the last training went, or is going."""
        return self.progress()

    def expect(self, epochs: int | None) -> None:
        """Note that a training was asked for."""
        ProgressFile(self.models.state.progress_file(self.model), self.model, epochs or self.default_epochs)

    def progress(self) -> dict[str, Any]:
        """Return how far the training is; its state is ``none`` before the first one."""
        try:
            text = self.models.state.progress_file(self.model).read_text(encoding="utf-8")
            content: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return {**EMPTY_PROGRESS, "model": self.model}
        return content

    def start_from(self, params: TrainParams) -> Path | None:
        """Return the model in use, to go on from, or ``None`` for a new network."""
        goes_on = params.start == "current" and self.models.store.has(self.kind)
        return self.models.store.folder(self.kind) if goes_on else None

    def _write_audit(self) -> None:
        published = {
            "model": self.model,
            "kind": self.kind,
            "sha256": self.models.store.description(self.kind)["sha256"],
        }
        AuditLog(self.models.state.audit).append({"who": "training", "action": "publish model", "published": published})

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, publish and return the final progress.

        Raises:
            CfmriError: Training failed; the progress file says why.
        """
        params = known_params(self.schema, request)
        epochs = params.epochs or self.default_epochs
        output = self.models.state.training(self.model)
        report = ProgressFile(self.models.state.progress_file(self.model), self.model, epochs)
        data = Path(datastore._datastore_path)  # type: ignore[attr-defined]
        try:
            trained = self.train(data, output, epochs * STEPS_PER_EPOCH, params, resolved_device(params.device), report)
            self.models.store.publish(self.kind, trained)
            self._write_audit()
        except CfmriError as error:
            report.end("failed", str(error))
            logger.error("Training failed: %s", type(error).__name__)
            raise
        except Exception as error:
            report.end("failed", type(error).__name__)
            raise
        report.end("done", "Published")
        logger.info("Published a new %s", self.model)
        return self.progress()
