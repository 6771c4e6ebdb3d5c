"""The panel's retraining: the server's options as controls, progress with its curve, and stop."""

from __future__ import annotations

import json
from typing import Callable

from CounterfactualMRILib.controls import ParameterControls
from CounterfactualMRILib.job_display import JobDisplay
from CounterfactualMRILib.schema import TISSUE_SEGMENTER, Server
from CounterfactualMRILib.training_curve import TrainingCurve


class TrainingSection:
    """Retrains the tissue segmenter on the server's labelled images; the panel can be used meanwhile.

    Args:
        ui: The panel's widgets.
        logic: Module logic.
        remembered: Returns the parameter node, which keeps the options in the scene.
        onStart: Called when work was started that the panel's timer must look after.

    Attributes:
        display: Of the training that runs.
    """

    def __init__(self, ui, logic, remembered: Callable, onStart: Callable[[], None]) -> None:
        self._ui, self._logic, self._remembered, self._onStart = ui, logic, remembered, onStart
        self.display = JobDisplay(ui.trainProgressBar, ui.trainStatusLabel)
        self._curve: TrainingCurve | None = None
        self._controls = ParameterControls(ui.trainContainer, (), self._onChanged)
        ui.trainButton.connect("clicked(bool)", self._onTrainOrStop)

    def offer(self, server: Server) -> None:
        """Build the controls from what the server says of its trainer."""
        trainer = server.trainers.get(TISSUE_SEGMENTER)
        parameters = trainer.parameters if trainer else ()
        self._controls = ParameterControls(self._ui.trainContainer, parameters, self._onChanged)
        self._controls.setValues({**self._controls.values(), **json.loads(self._remembered().training)})

    def update(self) -> bool:
        """Show how the training goes; return whether it has ended since the last call."""
        if self.display.isBusy and self.display.job.detail is not None:
            self._curve.add(self.display.job.detail)
        return self.display.update()

    def showAvailability(self) -> None:
        """Enable what can be done now."""
        server, isTraining = self._logic.server, self.display.isBusy
        self._ui.trainButton.text = "Stop training" if isTraining else "Retrain the segmenter"
        self._ui.trainButton.enabled = isTraining or (server is not None and TISSUE_SEGMENTER in server.trainers)

    def _onChanged(self) -> None:
        self._remembered().training = json.dumps(self._controls.values())

    def _onTrainOrStop(self, *_) -> None:
        if self.display.isBusy:
            self.display.cancel()
        else:
            request = self._controls.values()
            self._curve = TrainingCurve(f"Training with {request.get('augmentation', 'the defaults')}")
            self.display.watch(self._logic.train(request, wait=False), _inWords)
        self._onStart()


def _inWords(status) -> str:
    note = f" {status.note}." if status.note and status.note not in status.message else ""
    return f"Trained. {status.message}.{note}"
