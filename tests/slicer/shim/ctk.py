"""Stand-in for the CTK widgets that the panel uses: same properties and signals, plain look."""

import qt
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal


class ctkCollapsibleButton(qt.PythonQtObject, QtWidgets.QWidget):
    contentsCollapsed = Signal(bool)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._collapsed = False
        self._header = QtWidgets.QToolButton(self)
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonTextBesideIcon)
        self._header.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._header.clicked.connect(lambda: self._setCollapsed(not self._collapsed))
        self._setCollapsed(False)

    def _height(self):
        return self._header.sizeHint().height()

    def resizeEvent(self, event):
        self._header.setGeometry(0, 0, event.size().width(), self._height())
        super().resizeEvent(event)

    def event(self, event):
        if event.type() in (QtCore.QEvent.LayoutRequest, QtCore.QEvent.Polish):
            layout = QtWidgets.QWidget.layout(self)
            if layout is not None:
                left, _, right, bottom = layout.getContentsMargins()
                layout.setContentsMargins(left, self._height() + 6, right, bottom)
        return super().event(event)

    def _setCollapsed(self, collapsed):
        changed, self._collapsed = self._collapsed != collapsed, collapsed
        self._header.setArrowType(QtCore.Qt.RightArrow if collapsed else QtCore.Qt.DownArrow)
        QtWidgets.QWidget.setMaximumHeight(self, self._height() if collapsed else 16777215)
        for child in QtWidgets.QWidget.findChildren(self, QtWidgets.QWidget, options=QtCore.Qt.FindDirectChildrenOnly):
            if child is not self._header:
                child.setEnabled(not collapsed)
        if changed:
            self.contentsCollapsed.emit(collapsed)

    text = Property(str, lambda self: self._header.text(), lambda self, text: self._header.setText(text))
    collapsed = Property(bool, lambda self: self._collapsed, _setCollapsed)


class ctkSliderWidget(qt.PythonQtObject, QtWidgets.QWidget):
    valueChanged = Signal(float)
    _TICKS = 1000

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider, self._box = QtWidgets.QSlider(QtCore.Qt.Horizontal), QtWidgets.QDoubleSpinBox()
        self._slider.setRange(0, self._TICKS)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider, 1)
        layout.addWidget(self._box)
        self._box.valueChanged.connect(self._onValue)
        self._slider.sliderMoved.connect(lambda tick: self._box.setValue(self._fromTick(tick)))

    def _fromTick(self, tick):
        return self._box.minimum() + tick / self._TICKS * (self._box.maximum() - self._box.minimum())

    def _onValue(self, value):
        span = self._box.maximum() - self._box.minimum() or 1.0
        self._slider.setValue(round(self._TICKS * (value - self._box.minimum()) / span))
        self.valueChanged.emit(value)

    value = Property(float, lambda self: self._box.value(), lambda self, value: self._box.setValue(value))
    minimum = Property(float, lambda self: self._box.minimum(), lambda self, value: self._box.setMinimum(value))
    maximum = Property(float, lambda self: self._box.maximum(), lambda self, value: self._box.setMaximum(value))
    singleStep = Property(float, lambda self: self._box.singleStep(), lambda self, step: self._box.setSingleStep(step))
    decimals = Property(int, lambda self: self._box.decimals(), lambda self, value: self._box.setDecimals(value))
    suffix = Property(str, lambda self: self._box.suffix(), lambda self, value: self._box.setSuffix(value))


class ctkPathLineEdit(qt.PythonQtObject, QtWidgets.QWidget):
    currentPathChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._edit, button = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        button.setText("...")
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(button)
        self._edit.textChanged.connect(self.currentPathChanged)

    currentPath = Property(str, lambda self: self._edit.text(), lambda self, text: self._edit.setText(text))


for _cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit):
    qt.CUSTOM_WIDGETS[_cls.__name__] = _cls
