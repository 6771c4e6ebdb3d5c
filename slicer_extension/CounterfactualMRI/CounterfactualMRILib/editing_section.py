"""The panel's lesion and structure edits: which editor, where, and how; the controls are the server's list."""

from __future__ import annotations

from typing import Callable

from CounterfactualMRILib.controls import ParameterControls
from CounterfactualMRILib.schema import EDITORS, Model, Server

_TITLES = {"lesion_editor": "Lesion", "structure_editor": "Fibroglandular tissue"}


class EditingSection:
    """What is asked of the server's editors of anatomy.

    Args:
        ui: The panel's widgets.
        onEdit: Called with the editor's name, the values asked for, and the node that says where, or ``None``.
        onCancel: Called when the running job is to end.
        onChange: Called when something was chosen that decides what can be done.
    """

    def __init__(self, ui, onEdit: Callable, onCancel: Callable[[], None], onChange: Callable[[], None]) -> None:
        self._ui, self._onEdit, self._onCancel, self._onChange = ui, onEdit, onCancel, onChange
        self._isBusy = False
        self._models: list[Model] = []
        self.controls = ParameterControls(ui.editingContainer, (), onChange)
        ui.editorComboBox.connect("currentIndexChanged(int)", self._onEditor)
        ui.regionSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _: onChange())
        ui.editButton.connect("clicked(bool)", self._onEditOrCancel)
        self._list(())

    def offer(self, server: Server) -> None:
        """List the editors that the server has; without one the section is hidden."""
        self._list([server.models[name] for name in EDITORS if name in server.models])
        self._onChange()

    def showAvailability(self, isBusy: bool, reason: str) -> None:
        """Enable what can be done now.

        Args:
            isBusy: Whether a job runs.
            reason: Why nothing may be sent at all, else empty.
        """
        ui, model, self._isBusy = self._ui, self.model(), isBusy
        needsRegion = model is not None and model.region() is not None
        missing = "Choose where" if needsRegion and ui.regionSelector.currentNode() is None else ""
        ui.editButton.text = "Cancel" if isBusy else "Change the anatomy"
        ui.editButton.enabled = isBusy or (model is not None and not (reason or missing))
        ui.editButton.toolTip = "" if isBusy else reason or missing or "Make a new volume; the source is not changed"

    def model(self) -> Model | None:
        """Return the chosen editor."""
        index = self._ui.editorComboBox.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def _list(self, models) -> None:
        box, self._models = self._ui.editorComboBox, []
        box.clear()
        for model in models:
            box.addItem(_TITLES[model.name])
        self._models = list(models)
        self._ui.editingCollapsibleButton.visible = bool(models)
        self._showEditor()

    def _onEditor(self, *_) -> None:
        self._showEditor()
        self._onChange()

    def _showEditor(self) -> None:
        ui, model = self._ui, self.model()
        region = model.region() if model is not None else None
        self.controls = ParameterControls(
            ui.editingContainer, model.adjustable() if model is not None else (), self._onChange
        )
        for widget in (ui.regionLabel, ui.regionSelector):
            widget.visible = region is not None
            widget.toolTip = region.help if region is not None else ""

    def _onEditOrCancel(self, *_) -> None:
        if self._isBusy:
            self._onCancel()
            return
        model = self.model()
        region = self._ui.regionSelector.currentNode() if model.region() is not None else None
        self._onEdit(model.name, self.controls.values(), region)
