"""The training as table and plot, on real MRML."""

import math

import slicer
from CounterfactualMRILib.training import TrainingStatus
from CounterfactualMRILib.training_curve import TrainingCurve


def status(epoch, loss, score=None):
    return TrainingStatus("running", epoch, 10, loss, score, None, "")


def test_every_epoch_is_a_row_and_its_last_report_counts():
    curve = TrainingCurve("Training")
    for report in (status(0, None), status(1, 0.9), status(1, 0.8), status(2, 0.5, 0.4)):
        curve.add(report)
    table = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode").GetTable()
    rows = [[table.GetValue(row, column).ToDouble() for column in range(3)] for row in range(table.GetNumberOfRows())]
    assert rows[0][:2] == [1, 0.8]
    assert math.isnan(rows[0][2])
    assert rows[1] == [2, 0.5, 0.4]
    assert curve.chart.GetNumberOfPlotSeriesNodes() == 2


def test_nothing_is_made_before_the_first_number():
    TrainingCurve("Training").add(status(0, None))
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLPlotChartNode") == 0


def test_a_plot_view_shows_the_chart():
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotViewNode")
    curve = TrainingCurve("Training")
    curve.add(status(1, 0.3, 0.2))
    assert view.GetPlotChartNodeID() == curve.chart.GetID()


def test_after_the_scene_was_closed_it_begins_anew():
    curve = TrainingCurve("Training")
    curve.add(status(1, 0.3))
    slicer.mrmlScene.Clear()
    curve.add(status(2, 0.2))
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLTableNode").GetTable().GetNumberOfRows() == 1
