"""Controls made from the server's parameter list: one row per parameter."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import ctk
import qt

from CounterfactualMRILib.schema import Parameter

#: A slider reaches this many times the width of the training range to either side: far enough to see the warning.
_BEYOND_SUPPORT = 1.0

#: Longest value shown beside a control, in characters; the tool tip shows all of it.
_LONGEST_NOTE = 18


class ParameterControls:
    """Rows of controls in a grid layout, in place of those that were there.

    A parameter whose default is "leave it as it is" gets a check box; its value counts when it is checked.

    Args:
        container: Widget with a grid layout.
        parameters: What to make controls for.
        onChange: Called after every change by the user.
    """

    def __init__(self, container, parameters: Sequence[Parameter], onChange: Callable[[], None]) -> None:
        _clear(container.layout())
        container.layout().setColumnStretch(1, 1)
        self.rows = {
            parameter.name: _Row(container, index, parameter, onChange) for index, parameter in enumerate(parameters)
        }

    def values(self) -> dict[str, Any]:
        """Return what is asked for, by parameter name; what is to be left as it is is left out."""
        return {name: row.value() for name, row in self.rows.items() if row.isUsed()}

    def setValues(self, values: Mapping[str, Any]) -> None:
        """Show values that were asked for earlier; rows that are not named are unchecked."""
        for name, row in self.rows.items():
            if name in values:
                row.setValue(values[name])
            row.setUsed(name in values)

    def setPresent(self, values: Mapping[str, Any]) -> None:
        """Show how the volume was acquired, and start the unchecked controls from there."""
        for name, row in self.rows.items():
            row.setPresent(values.get(name))


class _Row:
    def __init__(self, container, index: int, parameter: Parameter, onChange: Callable[[], None]) -> None:
        self.parameter = parameter
        self._onChange = onChange
        self._isFilling = True
        self.isOptional = parameter.default is None
        self.checkBox = qt.QCheckBox(parameter.label) if self.isOptional else None
        title = self.checkBox or qt.QLabel(parameter.label + ":")
        title.toolTip = parameter.help
        self._editor = _EDITORS[parameter.kind](parameter, self._changed)
        self.widget = self._editor.widget
        self.widget.toolTip = _toolTip(parameter)
        self.widget.objectName = parameter.name
        self.note = qt.QLabel()
        grid = container.layout()
        for column, widget in enumerate((title, self.widget, self.note)):
            grid.addWidget(widget, index, column)
        if self.checkBox is not None:
            self.checkBox.objectName = parameter.name + "CheckBox"
            self.checkBox.connect("toggled(bool)", self._changed)
        if parameter.default is not None:
            self._editor.set(parameter.default)
        self._isFilling = False
        self._present: Any = None
        self._show()

    def isUsed(self) -> bool:
        return self.checkBox is None or self.checkBox.checked

    def setUsed(self, used: bool) -> None:
        if self.checkBox is not None:
            self.checkBox.checked = used

    def value(self) -> Any:
        return self._editor.get()

    def setValue(self, value: Any) -> None:
        self._isFilling = True
        try:
            self._editor.set(value)
        finally:
            self._isFilling = False
        self._show()

    def setPresent(self, value: Any) -> None:
        self._present = value
        if value is not None and self.isOptional and not self.isUsed():
            self.setValue(value)
        self._show()

    def _changed(self, *_) -> None:
        if not self._isFilling:
            self._show()
            self._onChange()

    def _show(self) -> None:
        self.widget.enabled = self.isUsed()
        present = "" if self._present is None else self.parameter.text(self._present)
        notes = [f"now {_shortened(present)}"] if present else []
        if self.isUsed() and self.parameter.isOutsideSupport(self.value()):
            notes.append("outside training")
        self.note.text = ", ".join(notes)
        self.note.toolTip = ". ".join(text for text in (present, _supportText(self.parameter)) if text)


class _NumberEditor:
    def __init__(self, parameter: Parameter, onChange: Callable) -> None:
        low, high = _sliderRange(parameter)
        self.widget = ctk.ctkSliderWidget()
        self.widget.decimals = 3 if high - low < 1 else 2 if high - low < 50 else 1
        self.widget.minimum, self.widget.maximum = low, high
        self.widget.singleStep = 10.0 ** -(self.widget.decimals - 1)
        self.widget.suffix = f" {parameter.unit}" if parameter.unit else ""
        self.widget.value = (sum(parameter.support) / 2) if parameter.support else low
        self.widget.connect("valueChanged(double)", onChange)

    def get(self) -> float:
        # Rounded, or the JSON sent would hold 1.4000000000000001.
        return round(self.widget.value, 6)

    def set(self, value: Any) -> None:
        value = float(value)
        self.widget.minimum, self.widget.maximum = min(self.widget.minimum, value), max(self.widget.maximum, value)
        self.widget.value = value


class _IntegerEditor:
    def __init__(self, parameter: Parameter, onChange: Callable) -> None:
        self.widget = qt.QSpinBox()
        self.widget.minimum = int(parameter.minimum if parameter.minimum is not None else 0)
        self.widget.maximum = int(min(parameter.maximum if parameter.maximum is not None else 2**31 - 1, 2**31 - 1))
        self.widget.connect("valueChanged(int)", onChange)

    def get(self) -> int:
        return self.widget.value

    def set(self, value: Any) -> None:
        self.widget.value = int(value)


class _ChoiceEditor:
    def __init__(self, parameter: Parameter, onChange: Callable) -> None:
        self._parameter = parameter
        self._choices = list(parameter.choices)
        self.widget = qt.QComboBox()
        for choice in self._choices:
            self.widget.addItem(parameter.text(choice))
        # A long option list must not widen the whole panel.
        self.widget.minimumContentsLength = 12
        self.widget.sizeAdjustPolicy = qt.QComboBox.AdjustToMinimumContentsLengthWithIcon
        self.widget.connect("currentIndexChanged(int)", onChange)

    def get(self) -> Any:
        return self._choices[self.widget.currentIndex]

    def set(self, value: Any) -> None:
        if value not in self._choices:
            self._choices.append(value)
            self.widget.addItem(self._parameter.text(value))
        self.widget.currentIndex = self._choices.index(value)


class _TextEditor:
    def __init__(self, parameter: Parameter, onChange: Callable) -> None:
        self.widget = qt.QLineEdit()
        self.widget.placeholderText = parameter.help
        self.widget.connect("textChanged(QString)", onChange)

    def get(self) -> str:
        return self.widget.text.strip()

    def set(self, value: Any) -> None:
        self.widget.text = str(value)


class _BooleanEditor:
    def __init__(self, parameter: Parameter, onChange: Callable) -> None:  # noqa: ARG002
        self.widget = qt.QCheckBox()
        self.widget.connect("toggled(bool)", onChange)

    def get(self) -> bool:
        return self.widget.checked

    def set(self, value: Any) -> None:
        self.widget.checked = bool(value)


_EDITORS = {
    "number": _NumberEditor,
    "integer": _IntegerEditor,
    "choice": _ChoiceEditor,
    "text": _TextEditor,
    "boolean": _BooleanEditor,
}


def _sliderRange(parameter: Parameter) -> tuple[float, float]:
    """Return what the slider spans: the training range and some more, inside what the server accepts."""
    least = parameter.minimum if parameter.minimum is not None else 0.0
    most = parameter.maximum if parameter.maximum is not None else max(100.0, least)
    if parameter.support is None:
        return least, most
    low, high = parameter.support
    reach = _BEYOND_SUPPORT * ((high - low) or abs(high) or 1.0)
    return max(least, low - reach), min(most, high + reach)


def _shortened(text: str) -> str:
    """Cut a long text in the middle; Siemens and GE write scan options of 40 characters."""
    half = _LONGEST_NOTE // 2
    return text if len(text) <= _LONGEST_NOTE else f"{text[:half]}...{text[-half:]}"


def _supportText(parameter: Parameter) -> str:
    if parameter.support is None:
        return ""
    low, high = parameter.support
    return f"Trained from {parameter.text(low)} to {parameter.text(high)}"


def _toolTip(parameter: Parameter) -> str:
    return ". ".join(text for text in (parameter.help, _supportText(parameter)) if text)


def _clear(layout) -> None:
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.setParent(None)
            widget.deleteLater()
