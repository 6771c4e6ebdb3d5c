"""The panel's reader study: pairs shown blinded, one after another, and graded."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import qt
import slicer

from CounterfactualMRILib import exchange, results
from CounterfactualMRILib.exchange import ExchangeProblem
from CounterfactualMRILib.reader_study import GRADES, PLACES, ReaderStudy, Reading
from CounterfactualMRILib.volume_display import showVolume


class ReaderSection:
    """Leads a reader through a `ReaderStudy` of all counterfactuals in the scene.

    The pairs are shown as copies without names, on the counterfactual's grid, as floating-point numbers, whole ones if
    the original has only such: neither a name nor an extent nor a stored value says which is which.

    Args:
        ui: The panel's widgets.
        comparison: The side-by-side layout.
        onChange: Called when a study begins or ends.
    """

    def __init__(self, ui, comparison, onChange: Callable[[], None]) -> None:
        self._ui, self._comparison, self._onChange = ui, comparison, onChange
        self.study: ReaderStudy | None = None
        self._cases: list = []
        self._copies: list = []
        for grade in ("", *GRADES):
            ui.gradeComboBox.addItem(grade or "Anatomical change?")
        ui.readingButton.connect("clicked(bool)", self._onBeginOrEnd)
        ui.gradeComboBox.connect("currentIndexChanged(int)", self.showAvailability)
        ui.withinCheckBox.connect("toggled(bool)", self.showAvailability)
        ui.outsideCheckBox.connect("toggled(bool)", self.showAvailability)
        ui.nextPairButton.connect("clicked(bool)", self._onNext)
        ui.takeBackButton.connect("clicked(bool)", self._onTakeBack)
        ui.saveReadingsButton.connect("clicked(bool)", self._onSave)
        self.showAvailability()

    @property
    def isReading(self) -> bool:
        """Whether pairs are being shown."""
        return bool(self._cases) and self.study is not None and self.study.current is not None

    def end(self) -> None:
        """Stop showing pairs; what was read so far is kept until the next study."""
        wasReading = self.isReading
        self._removeCopies()
        if self.study is not None:
            self._comparison.restore()
        self._cases = []
        if wasReading:
            self.showAvailability()
            self._onChange()

    def showAvailability(self, *_) -> None:
        """Enable what can be done now."""
        ui, isReading = self._ui, self.isReading
        ui.readingButton.text = "End the reading" if isReading else "Begin a blinded reading"
        for widget in (ui.gradeComboBox, ui.readingCommentLineEdit):
            widget.enabled = isReading
        hasChange = ui.gradeComboBox.currentIndex > 1
        for box in (ui.withinCheckBox, ui.outsideCheckBox):
            box.enabled = isReading and hasChange
        hasPlace = ui.withinCheckBox.checked or ui.outsideCheckBox.checked
        ui.nextPairButton.enabled = isReading and (ui.gradeComboBox.currentIndex == 1 or (hasChange and hasPlace))
        hasReadings = self.study is not None and bool(self.study.readings)
        ui.takeBackButton.enabled = isReading and hasReadings
        ui.saveReadingsButton.enabled = hasReadings

    def _onBeginOrEnd(self, *_) -> None:
        if self.isReading:
            self.end()
            self._ui.readingLabel.text = "Ended. Save what was read so far, or begin anew."
        else:
            self._begin()
        self.showAvailability()
        self._onChange()

    def _begin(self) -> None:
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        self._cases = [node for node in nodes if results.isSynthetic(node) and results.sourceOf(node) is not None]
        reader = self._ui.readerLineEdit.text.strip() or "reader"
        try:
            self.study = ReaderStudy(len(self._cases), reader, self._ui.readingSeedSpinBox.value)
        except ValueError as error:
            self._ui.readingLabel.text = str(error)
            return
        self._showCurrent()

    def _showCurrent(self) -> None:
        pair = self.study.current
        self._removeCopies()
        self._ui.gradeComboBox.currentIndex = 0
        self._ui.withinCheckBox.checked = self._ui.outsideCheckBox.checked = False
        self._ui.readingCommentLineEdit.text = ""
        if pair is None:
            self.end()
            self._ui.readingLabel.text = "All pairs were read.\n" + self.study.table()
            return
        counterfactual = self._cases[pair.case - 1]
        try:
            original = results.sourceVoxels(counterfactual)
        except ExchangeProblem as problem:
            self.end()
            self._ui.readingLabel.text = str(problem)
            return
        shown = _storedLike(original, slicer.util.arrayFromVolume(counterfactual))
        voxels = {"original": _asShown(original), "counterfactual": _asShown(shown)}
        self._copies = [
            _copy(voxels[side], counterfactual, name) for side, name in ((pair.left, "L"), (pair.right, "R"))
        ]
        self._comparison.showBlinded(*self._copies)
        self._ui.readingLabel.text = f"Pair {pair.number} of {len(self.study.pairs)}: does the anatomy differ?"

    def _onNext(self, *_) -> None:
        ui = self._ui
        boxes = zip(PLACES, (ui.withinCheckBox, ui.outsideCheckBox))
        grade = GRADES[ui.gradeComboBox.currentIndex - 1]
        places = tuple(place for place, box in boxes if box.checked) if grade != GRADES[0] else ()
        self.study.record(Reading(grade, places, ui.readingCommentLineEdit.text.strip()))
        self._showCurrent()
        self.showAvailability()
        self._onChange()

    def _onTakeBack(self, *_) -> None:
        self.study.takeBack()
        self._showCurrent()
        self.showAvailability()

    def _onSave(self, *_) -> None:
        path = qt.QFileDialog.getSaveFileName(None, "Save the readings", "readings.csv", "CSV (*.csv)")
        if path:
            self.save(path)

    def save(self, path: str) -> None:
        """Write the readings so far; a path that cannot be written to is reported in the panel."""
        try:
            Path(path).write_text(self.study.csv(), encoding="utf-8")
        except OSError as error:
            self._ui.readingLabel.text = f"Not saved: {error.strerror}. Choose another place."
            return
        self._ui.readingLabel.text = f"Saved {len(self.study.readings)} readings."

    def _removeCopies(self) -> None:
        for node in self._copies:
            results.removeVolume(node)
        self._copies = []


def _storedLike(original, voxels):
    """Return voxels rounded to whole numbers if the original has only such, as scanners store them."""
    import numpy as np

    isWhole = original.dtype.kind in "iu" or bool((original == np.rint(original)).all())
    return np.rint(voxels) if isWhole else voxels


def _asShown(voxels):
    """Return voxels as floating-point numbers; such as are stay where they are, for 32 MB are not copied in no time."""
    return voxels.astype("float32", copy=False)


def _copy(voxels, counterfactual, name: str):
    """Return a nameless volume that is neither listed nor saved."""
    image = exchange.Image(voxels, exchange.matrixOf(counterfactual))
    node = exchange.nodeOf(image)
    node.SetName(f"Reading {name}")
    node.SetHideFromEditors(True)
    node.SetSaveWithScene(False)
    node = slicer.mrmlScene.AddNode(node)
    node.SetAndObserveTransformNodeID(counterfactual.GetTransformNodeID())
    shown = counterfactual.GetDisplayNode()
    showVolume(node, shown.GetWindow(), shown.GetLevel())
    node.GetDisplayNode().SetSaveWithScene(False)
    return node
