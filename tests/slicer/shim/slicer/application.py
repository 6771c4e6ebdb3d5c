"""Stand-in for what the Slicer application puts into `slicer`: the scene, the application, MRML widgets.

Imported by slicer-core's own hook for `slicer` folders on the path; the names below appear in `slicer`.
"""

from typing import ClassVar

import qt
import slicer_core
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Signal

mrmlScene = slicer_core.vtkMRMLScene()


class _Application:
    """The part of `slicer.app` that the module uses."""

    applicationName = "Slicer stand-in"

    def __init__(self, scene):
        self.startupSlots = []
        self._logic = slicer_core.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._logic.GetColorLogic().SetMRMLScene(scene)
        self._logic.GetColorLogic().AddDefaultColorNodes()
        slicer_core.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        # As the Colors module does at the start.
        scene.RegisterNodeClass(slicer_core.vtkMRMLColorLegendDisplayNode())

    def applicationLogic(self):
        return self._logic

    def connect(self, signature, slot):
        if signature != "startupCompleted()":
            raise ValueError(f"Signal {signature} is not known to the stand-in")
        self.startupSlots.append(slot)


app = _Application(mrmlScene)


def startAgain():
    """Give `slicer` a new application and scene, as after a start."""
    import slicer

    slicer.mrmlScene = slicer_core.vtkMRMLScene()
    slicer.app = _Application(slicer.mrmlScene)
    return slicer.mrmlScene


class qMRMLWidget(qt.PythonQtObject, QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)
    _signatures: ClassVar[dict] = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged(PyObject)"}

    def setMRMLScene(self, scene):
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qt.PythonQtObject, QtWidgets.QComboBox):
    currentNodeChanged = Signal(object)
    _signatures: ClassVar[dict] = {"currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged(PyObject)"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._types, self._flags, self._scene = [], {}, None
        self.currentIndexChanged.connect(lambda _index: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene):
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent):
            scene.AddObserver(event, lambda *_: self._fill())
        self._fill()

    def currentNode(self):
        nodeId = QtWidgets.QComboBox.currentData(self)
        return self._scene.GetNodeByID(nodeId) if self._scene is not None and nodeId else None

    def setCurrentNode(self, node):
        QtWidgets.QComboBox.setCurrentIndex(self, QtWidgets.QComboBox.findData(self, node.GetID() if node else None))

    def _fill(self):
        if self._scene is None:
            return
        before = QtWidgets.QComboBox.currentData(self)
        self.blockSignals(True)
        QtWidgets.QComboBox.clear(self)
        if self._flags.get("noneEnabled"):
            QtWidgets.QComboBox.addItem(self, self._flags.get("noneDisplay") or "None", None)
        for node in self._offered():
            QtWidgets.QComboBox.addItem(self, node.GetName(), node.GetID())
        index = QtWidgets.QComboBox.findData(self, before) if before else -1
        # The real widget chooses the first node that appears while nothing is chosen, unless "none" is a choice.
        last = QtWidgets.QComboBox.count(self) - 1
        QtWidgets.QComboBox.setCurrentIndex(self, index if index >= 0 else min(0, last))
        self.blockSignals(False)
        if QtWidgets.QComboBox.currentData(self) != before:
            self.currentNodeChanged.emit(self.currentNode())

    def _offered(self):
        for name in self._types:
            for index in range(self._scene.GetNumberOfNodesByClass(name)):
                node = self._scene.GetNthNodeByClass(index, name)
                isChild = node.GetClassName() != name
                if not node.GetHideFromEditors() and not (isChild and not self._flags.get("showChildNodeTypes", True)):
                    yield node

    def _setTypes(self, types):
        self._types = list(types)
        self._fill()

    def _setFlag(self, name, value):
        self._flags[name] = value
        self._fill()

    nodeTypes = Property("QStringList", lambda self: self._types, _setTypes)
    for _flag in ("noneEnabled", "addEnabled", "removeEnabled", "renameEnabled", "showChildNodeTypes"):
        locals()[_flag] = Property(
            bool,
            lambda self, flag=_flag: self._flags.get(flag, True),
            lambda self, value, flag=_flag: self._setFlag(flag, value),
        )
    del _flag
    noneDisplay = Property(
        str,
        lambda self: self._flags.get("noneDisplay", "None"),
        lambda self, text: self._setFlag("noneDisplay", text),
    )


for _cls in (qMRMLWidget, qMRMLNodeComboBox):
    qt.CUSTOM_WIDGETS[_cls.__name__] = _cls
