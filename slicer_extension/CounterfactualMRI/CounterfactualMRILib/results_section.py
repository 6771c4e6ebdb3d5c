"""The panel's results: a table of what was made of the chosen volume, and ways of seeing it."""

from __future__ import annotations

from typing import Callable

import qt

from CounterfactualMRILib import difference, results, verdict
from CounterfactualMRILib.exchange import ExchangeProblem

_COLUMNS = ("Counterfactual", "Method", "Seed", "Check")
_FLICKER_MS = 600


class ResultsSection:
    """Shows the counterfactuals of one volume; the selected one beside its source.

    Args:
        ui: The panel's widgets.
        comparison: The side-by-side layout.
        onSelected: Called with the node that the user selected, ``None`` for none.
    """

    def __init__(self, ui, comparison, onSelected: Callable) -> None:
        self._ui, self._comparison, self._onSelected = ui, comparison, onSelected
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
        ui.flickerButton.connect("clicked(bool)", self._onFlicker)
        ui.fadeSlider.connect("valueChanged(int)", self._onFade)
        ui.deleteButton.connect("clicked(bool)", self._onDelete)
        self._timer = qt.QTimer()
        self._timer.setInterval(_FLICKER_MS)
        self._timer.connect("timeout()", self._flick)
        self._source = None

    def show(self, source, selected=None) -> None:
        """List the counterfactuals of a volume.

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
        self.showAvailability()

    def current(self):
        """Return the selected counterfactual, or ``None``."""
        row = self._ui.resultsTable.currentRow()
        return self._nodes[row] if 0 <= row < len(self._nodes) else None

    def compare(self) -> None:
        """Show the selected counterfactual beside its source."""
        node = self.current()
        if node is None or results.sourceOf(node) is None:
            return
        signed = None
        if self._ui.differenceButton.checked:
            try:
                signed = difference.insertDifference(node)
            except ExchangeProblem as problem:
                self._ui.differenceButton.checked = False
                self._ui.verdictLabel.text = str(problem)
        self._comparison.show(results.sourceOf(node), node, signed)
        self._onFade(self._ui.fadeSlider.value)
        self.showAvailability()

    def end(self) -> None:
        """Stop what moves, and return to the earlier layout."""
        self._timer.stop()
        self._ui.flickerButton.checked = False
        self._comparison.restore()

    def showAvailability(self) -> None:
        """Enable what can be done with the selection."""
        ui, node = self._ui, self.current()
        for button in (ui.compareButton, ui.deleteButton, ui.askAgainButton):
            button.enabled = node is not None
        for widget in (ui.differenceButton, ui.flickerButton, ui.fadeSlider):
            widget.enabled = node is not None and self._comparison.isShown
        ui.compareButton.checked = self._comparison.isShown
        ui.verdictLabel.text = verdict.inWords(results.evidenceOf(node)) if node is not None else ""

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

    def _onFlicker(self, *_) -> None:
        if self._ui.flickerButton.checked:
            self._timer.start()
        else:
            self._timer.stop()
            self._ui.fadeSlider.value = 0

    def _flick(self) -> None:
        if not self._comparison.isShown:
            self._timer.stop()
            self._ui.flickerButton.checked = False
            return
        self._ui.fadeSlider.value = 0 if self._ui.fadeSlider.value else 100

    def _onFade(self, percent: int) -> None:
        node = self.current()
        if node is not None and results.sourceOf(node) is not None:
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
