"""The panel's labelling loop: the next case from the server, and its corrected label back to it."""

from __future__ import annotations

from typing import Callable

from CounterfactualMRILib import cases, segmentation
from CounterfactualMRILib.client import mendedAddress
from CounterfactualMRILib.problems import ServerProblem
from CounterfactualMRILib.schema import Counts, Server


class CaseSection:
    """Asks for cases and submits labels.

    Args:
        ui: The panel's widgets.
        logic: Module logic.
        start: Runs a job: ``start(begin, onDone, label)``.
        onLoaded: Called with the volume of the next case.
        onChange: Called when something was chosen that decides what can be done.
    """

    def __init__(self, ui, logic, start: Callable, onLoaded: Callable, onChange: Callable[[], None]) -> None:
        self._ui, self._logic, self._start, self._onLoaded = ui, logic, start, onLoaded
        ui.nextCaseButton.connect("clicked(bool)", self._onNextCase)
        ui.submitButton.connect("clicked(bool)", self._onSubmit)
        ui.storeCheckBox.connect("toggled(bool)", lambda _: onChange())
        ui.labelSelector.connect("currentNodeChanged(vtkMRMLNode*)", lambda _: onChange())

    def offer(self, server: Server) -> None:
        """List the server's strategies, and say how far labelling is."""
        self._ui.countsLabel.text = str(server.counts or "")
        box = self._ui.strategyComboBox
        box.clear()
        for name, description in sorted(server.strategies.items()):
            box.addItem(name)
            box.setItemData(box.count - 1, description, _TOOL_TIP_ROLE)

    def showInput(self, volume) -> None:
        """Start anew with a volume: no agreement to storing it, and its own segmentation as the label, or none."""
        self._ui.storeCheckBox.checked = False
        self.showLabelOf(volume)

    def showLabelOf(self, volume) -> None:
        """Choose the newest segmentation of a volume as the label to submit, or none."""
        self._ui.labelSelector.setCurrentNode(segmentation.segmentationOf(volume))

    def showAvailability(self, isBusy: bool, reason: str) -> None:
        """Enable what can be done now.

        Args:
            isBusy: Whether a job runs.
            reason: Why nothing may be sent at all, else empty.
        """
        ui, server, volume = self._ui, self._logic.server, self._ui.inputSelector.currentNode()
        canAsk = server is not None and bool(server.strategies)
        ui.strategyComboBox.enabled = canAsk
        ui.nextCaseButton.enabled = canAsk and not isBusy
        isForeign = volume is not None and not self._isCase(volume)
        ui.storeCheckBox.visible = isForeign
        missing = "" if ui.labelSelector.currentNode() is not None else "Choose the corrected segmentation"
        missing = missing or ("" if ui.storeCheckBox.checked or not isForeign else "Allow storing the volume too")
        ui.submitButton.enabled = not (isBusy or reason or missing)
        ui.submitButton.toolTip = reason or missing or "Store the segmentation as the volume's final label"

    def _isCase(self, volume) -> bool:
        try:
            return bool(cases.imageIdOf(volume, mendedAddress(self._ui.addressComboBox.currentText)))
        except ServerProblem:
            return False

    def _onNextCase(self, *_) -> None:
        strategy = self._ui.strategyComboBox.currentText

        def show(found) -> str:
            volume, counts, why = found
            self._showCounts(counts)
            if volume is None:
                return "Every image on the server has a label."
            self._onLoaded(volume)
            return f"Loaded {volume.GetName()}. {why}".strip()

        self._start(lambda: self._logic.nextCase(strategy, wait=False), show, self._ui.caseLabel)

    def _onSubmit(self, *_) -> None:
        volume, label = self._ui.inputSelector.currentNode(), self._ui.labelSelector.currentNode()
        mayStore = self._ui.storeCheckBox.checked

        def show(counts: Counts) -> str:
            self._showCounts(counts)
            self._ui.storeCheckBox.checked = False  # the agreement was for this volume only
            return "The label is on the server. Retrain, then segment again."

        self._start(lambda: self._logic.submitLabel(volume, label, mayStore, wait=False), show, self._ui.caseLabel)

    def _showCounts(self, counts: Counts) -> None:
        self._ui.countsLabel.text = str(counts)


#: Qt.ToolTipRole as a number: PythonQt's enumerations differ between versions.
_TOOL_TIP_ROLE = 3
