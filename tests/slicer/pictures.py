"""Pictures of the panel and the linked views of a running server: ``python pictures.py OUT SERVER [SCAN] [--set X=Y]``.

SCAN is a folder with one DICOM series or a NIfTI file; without it a breast is simulated. Needs what the tests in this
folder need; run it from anywhere.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import slicer_paths  # noqa: F401 - puts the stand-ins and the module on the path

# isort: split
import numpy as np
import slicer
from CounterfactualMRI import CounterfactualMRIWidget
from CounterfactualMRILib import results
from CounterfactualMRILib.layout import COUNTERFACTUAL_VIEW, DIFFERENCE_VIEW, ORIGINAL_VIEW
from CounterfactualMRILib.uncertainty import uncertaintyOf
from live_studies import simulated
from mrml_fixtures import Layout, makeVolume
from PySide6.QtCore import QSettings, Qt
from PySide6.QtGui import QColor, QFont, QImage, QPainter
from PySide6.QtWidgets import QApplication
from vtk.util.numpy_support import vtk_to_numpy

PANEL_WIDTH = 540
VIEW_SIZE = (420, 360)
WAIT_S = 600
DEFAULT_CHANGES = ("field_strength_t=1.5", "echo_time_ms=1.4", "repetition_time_ms=4.3")


def draw(folder: Path, address: str, scan: Path, changes: dict, options: dict | None = None) -> list[Path]:
    """Use the panel on a scan as a person would, and save a picture after each step.

    Args:
        folder: Where the PNG files go.
        address: A running `cfmri serve`.
        scan: What to load.
        changes: Acquisition parameters to change.
        options: Values of the advanced controls.

    Returns:
        panel-connected.png, panel-running.png, panel-result.png, comparison.png, uncertainty.png and segmentation.png.
    """
    slicer.startAgain()
    layout = Layout(slicer.mrmlScene)
    volume, factual = load(scan)
    panel = CounterfactualMRIWidget()
    try:
        return _draw(folder, panel, layout, volume, factual, address, changes, options or {})
    finally:
        panel.cleanup()
        layout.close()


def _draw(folder, panel, layout, volume, factual, address, changes, options) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    ui, saved = panel.ui, []
    ui.addressComboBox.currentText = address
    ui.testConnectionButton.click()
    _until(lambda: not panel.display.isBusy)
    ui.inputSelector.setCurrentNode(volume)
    panel._setFactual(factual)
    for name, value in changes.items():
        panel.targets.rows[name].checkBox.checked = True
        panel.targets.rows[name].setValue(value)
    panel.options.setValues({**panel.options.values(), "uncertainty": True, **options})
    panel.onRequestChanged()
    saved.append(grab(panel, folder / "panel-connected.png"))
    ui.generateButton.click()
    _until(lambda: not panel.display.isBusy or _isComputing(panel.display.job))
    saved.append(grab(panel, folder / "panel-running.png"))
    _until(lambda: not panel.display.isBusy)
    node = panel.parameterNode.resultVolume
    if node is None:
        raise SystemExit(f"No counterfactual was made: {ui.statusLabel.text}")
    saved.append(grab(panel, folder / "panel-result.png"))
    saved.append(composeViews(layout, panel, volume, node, folder / "comparison.png"))
    saved.append(_composeUncertainty(layout, panel, node, folder / "uncertainty.png"))
    ui.segmentButton.click()
    _until(lambda: not panel.display.isBusy)
    saved.append(_composeSegmentation(layout, volume, node, folder / "segmentation.png"))
    return saved


def _isComputing(job) -> bool:
    return job.step > 0 and not job.message.startswith("Sending")


def load(scan: Path):
    """Return a scan as a volume node, with its acquisition parameters by name."""
    from cfmri_core.io.scan import read_scan

    found = read_scan(scan)
    voxels = np.ascontiguousarray(found.volume.voxels.transpose(2, 1, 0))
    node = makeVolume(voxels, found.volume.affine, "scan")
    low, high = np.percentile(voxels, (1, 99.5))
    node.GetDisplayNode().SetWindowLevel(float(high - low), float(high + low) / 2)
    return node, found.acquisition.parameters.known()


def grab(panel, path: Path) -> Path:
    """Save the panel as it looks now, no higher than its content."""
    panel.parent.resize(PANEL_WIDTH, 1200)
    panel.parent.show()
    for _ in range(3):
        QApplication.processEvents()
        panel.parent.resize(PANEL_WIDTH, panel.parent.layout().totalHeightForWidth(PANEL_WIDTH))
    QApplication.processEvents()
    panel.parent.grab().save(str(path), "PNG", 0)
    return path


def composeViews(layout, panel, original, counterfactual, path: Path) -> Path:
    """Save the three linked views side by side, at the middle of the counterfactual, moved in the left one only."""
    signed = panel.logic.insertDifference(counterfactual)
    panel.comparison.show(original, counterfactual, signed)
    names = (ORIGINAL_VIEW, COUNTERFACTUAL_VIEW, DIFFERENCE_VIEW)
    left, right, third = (layout.sliceLogic(name, VIEW_SIZE) for name in names)
    panel.comparison.show(original, counterfactual, signed)
    left.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
    sliceToRAS = left.GetSliceNode().GetSliceToRAS()
    normal = [sliceToRAS.GetElement(row, 2) for row in range(3)]
    rasBounds = [0.0] * 6
    counterfactual.GetRASBounds(rasBounds)
    centre = [(rasBounds[2 * axis] + rasBounds[2 * axis + 1]) / 2 for axis in range(3)]
    left.SetSliceOffset(sum(a * b for a, b in zip(normal, centre, strict=True)))
    left.SnapSliceOffsetToIJK()
    left.EndSliceNodeInteraction()
    views = (left, right, third)
    limit = signed.GetDisplayNode().GetWindow() / 2
    names = (original.GetName(), counterfactual.GetName(), f"difference, -{limit:.0f} (blue) to {limit:.0f} (red)")
    labels = [f"{name}   S {logic.GetSliceOffset():.1f} mm" for name, logic in zip(names, views, strict=True)]
    return _compose([(viewPixels(logic), label) for logic, label in zip(views, labels, strict=True)], path)


def _composeUncertainty(layout, panel, counterfactual, path: Path) -> Path:
    """Save the counterfactual's view without and with the map that lies over it."""
    logic, widths = layout.sliceLogic(COUNTERFACTUAL_VIEW), uncertaintyOf(counterfactual)
    before = viewPixels(logic)
    panel.comparison.overlay(widths)
    display = widths.GetDisplayNode()
    low, high = (display.GetLevel() + sign * display.GetWindow() / 2 for sign in (-1, 1))
    label = f"uncertainty, ± {low:.0f} (dark) to ± {high:.0f} (yellow)"
    views = [(before, counterfactual.GetName()), (viewPixels(logic), label)]
    panel.comparison.overlay(None)
    return _compose(views, path)


def _composeSegmentation(layout, original, counterfactual, path: Path) -> Path:
    """Save the original's view without and with the tissue segments, in the segments' own colours."""
    logic = layout.sliceLogic(ORIGINAL_VIEW)
    before = viewPixels(logic)
    node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    if node is None:
        raise SystemExit("No segmentation was made.")
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.vtkSlicerSegmentationsModuleLogic.ExportAllSegmentsToLabelmapNode(node, labelmap, 0)
    logic.GetSliceCompositeNode().SetLabelVolumeID(labelmap.GetID())
    logic.GetSliceCompositeNode().SetLabelOpacity(0.6)
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())]
    return _compose([(before, original.GetName()), (viewPixels(logic), ", ".join(names))], path)


def viewPixels(logic) -> np.ndarray:
    """Return what a slice view shows, resliced and blended by MRML: uint8, shape (rows, columns, 3), top row first."""
    logic.GetBlend().Update()
    image = logic.GetImageDataConnection().GetProducer()
    image.Update()
    data = image.GetOutput()
    columns, rows, _ = data.GetDimensions()
    pixels = vtk_to_numpy(data.GetPointData().GetScalars()).reshape(rows, columns, -1)
    return np.ascontiguousarray(pixels[::-1, :, :3].astype(np.uint8))


def _compose(views, path: Path) -> Path:
    bar, gap = 26, 4
    rows, columns = views[0][0].shape[:2]
    picture = QImage(len(views) * (columns + gap) - gap, rows + bar, QImage.Format_RGB32)
    picture.fill(QColor("#303a46"))
    painter = QPainter(picture)
    painter.setFont(QFont("DejaVu Sans", 9))
    for index, (pixels, label) in enumerate(views):
        left = index * (columns + gap)
        painter.drawImage(left, bar, QImage(pixels.tobytes(), columns, rows, 3 * columns, QImage.Format_RGB888))
        painter.setPen(QColor("#ffb066" if label.startswith(results.SYNTHETIC) else "white"))
        text = painter.fontMetrics().elidedText(label, Qt.ElideMiddle, columns - 16)
        painter.drawText(left + 8, bar - 8, text)
    painter.end()
    picture.save(str(path), "PNG", 0)  # 0: as small as can be
    return path


def _until(condition) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("The server did not answer in time.")
        QApplication.processEvents()
        time.sleep(0.01)


def main() -> None:
    """Run from the command line."""
    from cfmri_core.acquisition import parse_assignments

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("address")
    parser.add_argument("scan", type=Path, nargs="?")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="acquisition parameter to change"
    )
    arguments = parser.parse_args()
    application = QApplication.instance() or QApplication(sys.argv[:1])
    application.setOrganizationName("cfmri-pictures")
    with tempfile.TemporaryDirectory() as scratch:
        QSettings.setDefaultFormat(QSettings.IniFormat)
        QSettings.setPath(QSettings.IniFormat, QSettings.UserScope, scratch)
        scan = arguments.scan or _simulated(Path(scratch))
        changes = parse_assignments(arguments.set or DEFAULT_CHANGES)
        for path in draw(arguments.folder, arguments.address, scan, changes):
            print(path)  # noqa: T201


def _simulated(folder: Path) -> Path:
    from cfmri_core.data.studies import list_studies

    return list_studies(simulated(folder / "studies", subjects=1, seed=71000, slabMm=20))[0].scan_path


if __name__ == "__main__":
    main()
