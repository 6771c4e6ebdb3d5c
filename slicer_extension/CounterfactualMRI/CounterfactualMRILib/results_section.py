"""The panel's results: a table of what was made of the chosen volume, and ways of seeing it."""

from __future__ import annotations

from typing import Callable

import qt

from CounterfactualMRILib import results, uncertainty, verdict
from CounterfactualMRILib.difference import differenceOf
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.job_display import JobDisplay

_COLUMNS = ("Counterfactual", "Method", "Seed", "Check")
_FLICKER_MS = 600


class ResultsSection:
    """Shows the counterfactuals of one volume; the selected one beside its source.

    Args:
        ui: The panel's widgets.
        logic: Module logic; it computes differences.
        comparison: The side-by-side layout.
        onSelected: Called with the node that the user selected, ``None`` for none.
        onStart: Called when work was started that the panel's timer must look after.

    Attributes:
        display: Of the difference that is being computed.
    """

    def __init__(self, ui, logic, comparison, onSelected: Callable, onStart: Callable[[], None]) -> None:
        self._ui, self._logic, self._comparison = ui, logic, comparison
        self._onSelected, self._onStart = onSelected, onStart
        self.display = JobDisplay(None, ui.seeingLabel)
        self._nodes: list = []
        self._isFilling = False
        table = ui.resultsTable
        table.setColumnCount(len(_COLUMNS))
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        table.verticalHeader().hide()
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.connect("itemSelectionChanged()", self._onRow)
        ui.compareButton.connect("clicked(bool)", self._onCompare)
        ui.differenceButton.connect("clicked(bool)", self._onDifference)
        ui.uncertaintyButton.connect("clicked(bool)", self._onUncertainty)
        ui.flickerButton.connect("clicked(bool)", self._onFlicker)
        ui.fadeSlider.connect("valueChanged(int)", self._onFade)
        ui.deleteButton.connect("clicked(bool)", self._onDelete)
        self._timer = qt.QTimer()
        self._timer.setInterval(_FLICKER_MS)
        self._timer.connect("timeout()", self._flick)
        self._source = self._compared = None

    def show(self, source, selected=None) -> None:
        """List the counterfactuals of a volume; a comparison that is shown follows, or ends where nothing is selected.

        Args:
            source: The volume, or ``None``.
            selected: The one to select and to show; without it the selection goes to nothing.
        """
        self._source = source
        self._nodes = results.counterfactualsOf(source)
        table, self._isFilling = self._ui.resultsTable, True
        table.setRowCount(len(self._nodes))
        for row, node in enumerate(self._nodes):
            evidence = results.evidenceOf(node)
            words = (node.GetName(), evidence.get("method"), evidence.get("seed"), verdict.inOneWord(evidence))
            for column, value in enumerate(words):
                text = "" if value is None else str(value)
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                table.setItem(row, column, item)
        if selected in self._nodes:
            table.selectRow(self._nodes.index(selected))
        else:
            table.clearSelection()
            table.setCurrentCell(-1, -1)
        self._isFilling = False
        if self._comparison.isShown and self.current() is None:
            self.end()
        elif self._comparison.isShown and self.current() is not self._compared:
            self.compare()
        self.showAvailability()

    def current(self):
        """Return the selected counterfactual, or ``None``."""
        row = self._ui.resultsTable.currentRow()
        return self._nodes[row] if 0 <= row < len(self._nodes) else None

    def compare(self) -> None:
        """Show the selected counterfactual beside its source; a difference that is wanted follows when it is made."""
        node = self.current()
        if node is None or not self._hasItsSource(node):
            return
        self._compared = node
        self.display.say("")
        signed = differenceOf(node) if self._ui.differenceButton.checked else None
        self._comparison.show(results.sourceOf(node), node, signed)
        self._showOver()
        if self._ui.differenceButton.checked and signed is None:
            self._computeDifference(node)
        self.showAvailability()

    def _hasItsSource(self, node) -> bool:
        """Tell whether the source is what the counterfactual was made from; if not, say so and end the comparison."""
        try:
            results.requireSameSource(node)
        except ExchangeProblem as problem:
            self.end()
            self.display.say(str(problem))
            self.showAvailability()
            return False
        return True

    def _computeDifference(self, node) -> None:
        if self.display.isBusy:
            return  # when it is done, `compare` asks again for the one that is selected then
        try:
            self.display.watch(self._logic.insertDifference(node, wait=False), self._onDifferenceMade)
        except ExchangeProblem as problem:
            self._ui.differenceButton.checked = False
            self.display.say(str(problem))
            return
        self._onStart()

    def _onDifferenceMade(self, _) -> str:
        if self._comparison.isShown and self._ui.differenceButton.checked:
            self.compare()
        return ""

    def _showOver(self) -> None:
        """Show what lies over the counterfactual: its uncertainty, else the source as far as it is faded in."""
        widths = self._wantedUncertainty()
        if widths is None:
            self._onFade(self._ui.fadeSlider.value)
        else:
            self._comparison.overlay(widths)

    def _wantedUncertainty(self):
        node = self.current()
        return uncertainty.uncertaintyOf(node) if node is not None and self._ui.uncertaintyButton.checked else None

    def end(self) -> None:
        """Stop what moves, and return to the earlier layout."""
        if self._ui.flickerButton.checked:
            self._stopFlicker()
        self.display.cancel()
        self._comparison.restore()
        self._compared = None

    def showAvailability(self) -> None:
        """Enable what can be done with the selection."""
        ui, node = self._ui, self.current()
        ui.deleteButton.enabled = node is not None
        ui.compareButton.enabled = node is not None or self._comparison.isShown
        isShown = node is not None and self._comparison.isShown
        ui.differenceButton.enabled = isShown
        ui.uncertaintyButton.enabled = isShown and uncertainty.uncertaintyOf(node) is not None
        for widget in (ui.flickerButton, ui.fadeSlider):
            widget.enabled = isShown and self._wantedUncertainty() is None
        ui.compareButton.checked = self._comparison.isShown
        evidence = results.evidenceOf(node) if node is not None else {}
        ui.askAgainButton.enabled = node is not None and not results.isAnatomical(evidence)
        ui.verdictLabel.text = "\n".join(filter(None, (verdict.inWords(evidence), uncertainty.inWords(evidence))))

    def _onRow(self) -> None:
        if self._isFilling:
            return
        self._onSelected(self.current())
        if self._comparison.isShown:
            self.compare()
        self.showAvailability()

    def _onCompare(self, *_) -> None:
        if self._comparison.isShown:
            self.end()
            self.showAvailability()
        else:
            self.compare()

    def _onDifference(self, *_) -> None:
        self.compare()

    def _onUncertainty(self, *_) -> None:
        self._stopFlicker()
        self._showOver()
        self.showAvailability()

    def _onFlicker(self, *_) -> None:
        if self._ui.flickerButton.checked:
            self._timer.start()
        else:
            self._stopFlicker()

    def _stopFlicker(self) -> None:
        self._timer.stop()
        self._ui.flickerButton.checked = False
        self._ui.fadeSlider.value = 0

    def _flick(self) -> None:
        if not self._comparison.isShown:
            self._stopFlicker()
            return
        self._ui.fadeSlider.value = 0 if self._ui.fadeSlider.value else 100

    def _onFade(self, percent: int) -> None:
        node = self.current()
        if node is None or not self._comparison.isShown:
            return
        if percent == 0 or self._hasItsSource(node):
            self._comparison.fade(results.sourceOf(node), percent / 100)

    def _onDelete(self, *_) -> None:
        node = self.current()
        if node is None:
            return
        others = [other for other in self._nodes if other is not node]
        self.end()
        results.remove(node)
        self.show(self._source, others[-1] if others else None)
        self._onSelected(self.current())
