"""How a training goes, as a table and a plot in the scene. No Qt."""

from __future__ import annotations

import slicer
import vtk

from CounterfactualMRILib.training import TrainingStatus

_COLUMNS = ("epoch", "training loss", "best validation (1 - Dice)")
_COLORS = {_COLUMNS[1]: (0.29, 0.56, 0.64), _COLUMNS[2]: (0.84, 0.55, 0.27)}


class TrainingCurve:
    """Loss and validation against the epoch; a chart node that any plot view can show.

    The nodes are made at the first number, and stay in the scene afterwards.

    Args:
        title: Name of the chart.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._table = self.chart = None

    def add(self, status: TrainingStatus) -> None:
        """Take one report; of each epoch the last one counts."""
        if status.loss is None or status.epoch < 1:
            return
        if self._table is None or not slicer.mrmlScene.IsNodePresent(self._table):
            self._create()
        table = self._table.GetTable()
        last = table.GetNumberOfRows() - 1
        if last < 0 or table.GetValue(last, 0).ToInt() != status.epoch:
            last = table.InsertNextBlankRow()
        score = float("nan") if status.score is None else status.score
        for column, value in enumerate((status.epoch, status.loss, score)):
            table.SetValue(last, column, vtk.vtkVariant(value))
        table.Modified()
        self._table.Modified()

    def _create(self) -> None:
        scene = slicer.mrmlScene
        self._table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GetUniqueNameByString(self._title))
        for name in _COLUMNS:
            column = vtk.vtkIntArray() if name == _COLUMNS[0] else vtk.vtkDoubleArray()
            column.SetName(name)
            self._table.AddColumn(column)
        self.chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", scene.GetUniqueNameByString(self._title))
        self.chart.SetTitle(self._title)
        self.chart.SetXAxisTitle(_COLUMNS[0])
        for name in _COLUMNS[1:]:
            series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
            series.SetAndObserveTableNodeID(self._table.GetID())
            series.SetXColumnName(_COLUMNS[0])
            series.SetYColumnName(name)
            series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
            series.SetColor(*_COLORS[name])
            self.chart.AddAndObservePlotSeriesNodeID(series.GetID())
        for view in slicer.util.getNodesByClass("vtkMRMLPlotViewNode"):
            view.SetPlotChartNodeID(self.chart.GetID())
