"""The MONAI Label application: its models as inference and training tasks.

Served by ``cfmri serve STUDIES``. MONAI Label finds the class by its direct base, `MONAILabelApp`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cfmri_server.archive_datastore import open_datastore
from cfmri_server.background_tasks import end_with_server
from cfmri_server.datastore import ContainedDatastore
from cfmri_server.problem import NotFoundError
from cfmri_server.quiet import quiet_libraries
from cfmri_server.served_models import ServedModels
from cfmri_server.state import StateFolder
from lib.activelearning.acquisition_coverage import AcquisitionCoverage
from lib.activelearning.case_strategy import CaseStrategy
from lib.activelearning.counterfactual_disagreement import CounterfactualDisagreement
from lib.activelearning.random import Random
from lib.configs import CONFIGS, ONLY_WITH_WEIGHTS
from lib.configs.model_config import ModelConfig
from lib.infers.volume_task import VolumeTask
from lib.scoring.counterfactual_disagreement import CounterfactualDisagreement as CounterfactualDisagreementScoring
from lib.scoring.dice import Dice
from lib.scoring.image_scoring import ImageScoring
from lib.trainers.model_trainer import ModelTrainer
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

from cfmri_core import __version__
from cfmri_core.errors import RequestError


class CounterfactualMriApp(MONAILabelApp):
    """Predict acquisition parameters, make counterfactuals, segment tissue, edit anatomy, and retrain these."""

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        quiet_libraries()
        end_with_server()
        self.state = StateFolder.of(Path(studies))
        self.models = ServedModels(self.state)
        self.configs = _chosen(conf or {}, self.models)
        super().__init__(
            app_dir,
            studies,
            dict(conf or {}),
            name="Counterfactual MRI",
            description="How would this patient's MRI have looked, had it been acquired otherwise? Not for diagnosis.",
            version=__version__,
        )

    def init_datastore(self) -> ContainedDatastore:
        """Serve the studies folder, what was converted from it, or an archive."""
        return open_datastore(
            Path(self.studies),
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def infer(self, request: Any, datastore: Any = None) -> Any:
        """Run as MONAI Label's batch inference asks for it; the image may still be in an archive."""
        self._datastore.on_disk(self._datastore.require_image(request["image"]))
        with tempfile.TemporaryDirectory() as folder:  # the result is saved as a label meanwhile
            return super().infer({**request, "folder": folder}, datastore)

    def init_infers(self) -> dict[str, Any]:
        """Return the inference task of each model."""
        return {name: config.infer() for name, config in self.configs.items()}

    def init_trainers(self) -> dict[str, Any]:
        """Return the training task of each model."""
        return {name: config.trainer() for name, config in self.configs.items()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Return what scores images: the worth of a label, and how good the segmenter is."""
        return {method.name: method for method in (CounterfactualDisagreementScoring(self.models), Dice(self.models))}

    def init_strategies(self) -> dict[str, Any]:
        """Return what chooses the image to label next."""
        scoring = CounterfactualDisagreementScoring(self.models)
        return {task.name: task for task in (CounterfactualDisagreement(scoring), AcquisitionCoverage(), Random())}

    def infer_task(self, model: str) -> VolumeTask[Any]:
        """Return a model's inference task.

        Raises:
            NotFoundError: There is no such model.
        """
        return _named(self._infers, model)

    def strategy(self, name: str) -> CaseStrategy:
        """Return a strategy.

        Raises:
            NotFoundError: There is no such strategy.
        """
        return _named(self._strategies, name, "strategy")

    def scoring_method(self, name: str) -> ImageScoring:
        """Return a scoring method.

        Raises:
            NotFoundError: There is no such method.
        """
        return _named(self._scoring_methods, name, "scoring method")

    def train_task(self, model: str) -> ModelTrainer:
        """Return a model's training task.

        Raises:
            NotFoundError: There is no such model.
        """
        return _named(self._trainers, model)


def _chosen(conf: Mapping[str, str], models: ServedModels) -> dict[str, ModelConfig]:
    asked = conf.get("models", "all")
    offered = [name for name in CONFIGS if name not in ONLY_WITH_WEIGHTS or models.store.has(name)]
    names = offered if asked == "all" else [name.strip() for name in asked.split(",")]
    for name in names:
        if name not in CONFIGS:
            raise RequestError(f"There is no model '{name}'.", f"Use all, or some of: {', '.join(CONFIGS)}.")
    return {name: CONFIGS[name](models) for name in names}


def _named(tasks: Mapping[str, Any], name: str, what: str = "model") -> Any:
    if name not in tasks:
        accepted = ", ".join(tasks)
        raise NotFoundError(f"There is no such {what}.", f"Use one of: {accepted}.", field=what, value=name,
                            accepted=accepted)  # fmt: skip
    return tasks[name]
