"""The part of every training task that is the same: hold back, train or go on, compare, publish."""

from __future__ import annotations

import logging
import re
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from cfmri_server.audit import AuditLog
from cfmri_server.model_store import Publication
from cfmri_server.parameters import TRAIN_OPTIONS, PublishedParameter, published
from cfmri_server.problem import NotFoundError, pathless
from cfmri_server.request_schema import TrainParams, known_params
from cfmri_server.served_models import ServedModels
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from cfmri_core import __version__
from cfmri_core.data.held_back import hold_back
from cfmri_core.data.studies import Study, list_studies
from cfmri_core.errors import CfmriError, CheckpointError, RequestError
from cfmri_core.evaluation.candidate import Comparison, compare
from cfmri_core.io.json_text import plain
from cfmri_core.models.companion import weights_sha256
from cfmri_core.models.device import resolved_device
from cfmri_core.progress import Progress
from lib.trainers.progress_file import EMPTY_PROGRESS, STEPS_PER_EPOCH, ProgressFile, read_progress
from lib.trainers.run_folder import RunFolder, data_digest

logger = logging.getLogger("cfmri.training")

Params = TypeVar("Params", bound=TrainParams)

#: Options that decide what becomes of a training, not what it computes.
_WITHOUT_EFFECT = {"resume", "publish", "device"}


@dataclass(frozen=True)
class TrainingRun:
    """What a training works on.

    Attributes:
        studies: Studies to train on; those held back are not among them.
        folder: Where it works; a checkpoint in it is gone on from.
        iterations: Optimiser steps.
        device: Torch device.
        progress: Progress and cancel.
    """

    studies: Sequence[Study]
    folder: RunFolder
    iterations: int
    device: str
    progress: Progress


class ModelTrainer(TrainTask, Generic[Params]):
    """Trains one model on the datastore and publishes it. MONAI Label runs it in a process of its own.

    Attributes:
        schema: What the request may hold.
        model: Name of the model in `/info/`.
        kind: Kind of model that is published.
        options: What clients may set.
        default_epochs: Length when none is asked for.
        least_patients: Patients that a training needs at least.
    """

    schema: type[Params]
    model: str
    kind: str
    summary: str
    options: tuple[PublishedParameter, ...] = TRAIN_OPTIONS
    default_epochs: int
    least_patients: int = 2

    def __init__(self, models: ServedModels) -> None:
        super().__init__(self.summary)
        self.models = models
        self._folder = models.state.training(self.model)
        self._asked: tuple[int, int] | None = None

    @abstractmethod
    def train(self, run: TrainingRun, params: Params) -> Path:
        """Train, or go on with a training, and return the model folder."""

    def usable(self, studies: Sequence[Study]) -> Sequence[Study]:
        """Return the studies that can be trained on."""
        return studies

    def kinds_read(self, params: Params) -> tuple[str, ...]:
        """Return the kinds of models in use that decide what a training computes."""
        return (self.kind,) if params.start == "current" and self.models.store.has(self.kind) else ()

    def remark(self) -> str:
        """Return what users should know of a model that was published, or an empty text."""
        return ""

    def config(self) -> dict[str, Any]:
        """Return what clients need to know of the options."""
        return published(self.options)

    def stats(self) -> dict[str, Any]:
        """Return how the last training went, or is going, without its curve."""
        progress = self.progress()
        del progress["curve"]
        return progress

    def expect(self, epochs: int | None) -> None:
        """Note that a training was asked for: its process takes seconds to tell anything."""
        self._asked = time.time_ns(), epochs or self.default_epochs

    def progress(self) -> dict[str, Any]:
        """Return how far the training is; its state is ``none`` before the first one."""
        path = self.models.state.progress_file(self.model)
        if self._asked and (not path.exists() or path.stat().st_mtime_ns < self._asked[0]):
            return {**EMPTY_PROGRESS, "model": self.model, "state": "preparing", "epochs": self._asked[1]}
        return {**read_progress(path), "model": self.model}

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

    def candidate(self) -> dict[str, Any] | None:
        """Return the model of the last training, unless it is the one in use."""
        candidate = RunFolder(self._folder / "run").candidate()
        in_use, publications = self.models.store.publications(self.kind)
        used = [publication.sha256 for publication in publications if publication.version == in_use]
        return None if candidate is None or candidate["sha256"] in used else candidate

    def publish_candidate(self) -> Publication:
        """Make the model of the last training the one in use, whatever the comparison said.

        Raises:
            NotFoundError: It is in use already, or there is none.
        """
        candidate = self.candidate()
        if candidate is None:
            raise NotFoundError("There is no trained model waiting to be published.", field="model", value=self.model)
        return self.models.store.publish(self.kind, RunFolder(self._folder / "run").model, candidate["comparison"])

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train, compare, publish and return the final progress.

        Raises:
            CfmriError: Training failed; the progress file says why.
        """
        params = known_params(self.schema, request)
        folder = RunFolder(self._folder / "run")
        with folder.held():  # outside of what tells of a failure: the file is that of the training that runs
            return self._run(params, folder, datastore)

    def _run(self, params: Params, folder: RunFolder, datastore: Datastore) -> dict[str, Any]:
        data = Path(datastore._datastore_path)  # type: ignore[attr-defined]
        epochs = params.epochs or self.default_epochs
        file = self.models.state.progress_file(self.model)
        report: ProgressFile | None = None
        studies: Sequence[Study] = ()
        try:
            studies = self.usable(_listed(data, datastore))
            training, held_back = hold_back(studies, self._folder / "held_back.json", self.least_patients)
            goes_on = folder.begin(self._identity(params, epochs, training), resume=params.resume)
            report = ProgressFile(file, self.model, epochs, goes_on=goes_on)
            run = TrainingRun(training, folder, epochs * STEPS_PER_EPOCH, resolved_device(params.device), report)
            comparison = self._trained_and_compared(run, params, held_back)
            self._publish(run, params, comparison, report)
        except Exception as error:
            message = type(error).__name__
            if isinstance(error, CfmriError):
                message = pathless(_nameless(str(error), studies), data, self.models.state.root)
            (report or ProgressFile(file, self.model, epochs)).end("failed", message)
            logger.error("Training failed: %s", type(error).__name__)
            raise
        return self.progress()

    def _identity(self, params: Params, epochs: int, training: Sequence[Study]) -> dict[str, Any]:
        return {
            "cfmri": __version__,
            "options": {**params.model_dump(exclude=_WITHOUT_EFFECT), "epochs": epochs},
            "models": {kind: weights_sha256(self.models.store.folder(kind)) for kind in self.kinds_read(params)},
            "data": data_digest(training),
        }

    def _trained_and_compared(self, run: TrainingRun, params: Params, held_back: Sequence[Study]) -> Comparison:
        try:
            trained = self.train(run, params)
        except CheckpointError:
            if not run.folder.has_checkpoint:
                raise
            logger.warning("A checkpoint could not be read; the training begins anew.")
            run.folder.drop_checkpoint()
            trained = self.train(run, params)
        current = self.models.store.folder(self.kind) if self.models.store.has(self.kind) else None
        return compare(self.kind, trained, current, held_back, device=run.device, progress=run.progress)

    def _publish(self, run: TrainingRun, params: Params, comparison: Comparison, report: ProgressFile) -> None:
        wanted = params.publish == "always" or (params.publish == "if_better" and comparison.is_good_enough)
        if wanted:
            self.models.store.publish(self.kind, run.folder.model, plain(comparison))
            self._write_audit()
        run.folder.finish(comparison)
        told = f"{'Published' if wanted else 'Not published'}: {comparison}."
        told += f" {self.remark()}" if wanted and self.remark() else ""
        report.end("done", told, published=wanted, comparison=comparison)
        logger.info("Trained a %s, published: %s", self.model, wanted)


def _listed(data: Path, datastore: Datastore) -> list[Study]:
    """List the studies of the datastore; why there is none may name patients of a table, and is not told."""
    try:
        studies = list_studies(data)
    except CfmriError as error:
        raise RequestError("The datastore holds no study to train on.", "Add images first.") from error
    patients = [datastore.patient_of(study.subject_id) for study in studies]  # type: ignore[attr-defined]
    return [
        replace(study, patient_id=patient or study.patient_id) for study, patient in zip(studies, patients, strict=True)
    ]


def _nameless(text: str, studies: Sequence[Study]) -> str:
    """Return a text without the names of studies' files: every reader sees how a training ended."""
    for study in studies:
        files = {"A label file": study.labels_path, "A lesion mask": study.lesion_path, "An image": study.scan_path}
        for name, path in files.items():
            if path is not None:
                text = re.sub(re.escape(str(path)) + r"(/[^\s:]*)?", name, text)
    return text
