"""Stand-in for slicer.parameterNodeWrapper: the part that we use, on a real vtkMRMLScriptedModuleNode."""

import dataclasses
import typing

import vtk


@dataclasses.dataclass
class WithinRange:
    minimum: float
    maximum: float

    def check(self, name, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{name} = {value} is outside {self.minimum} to {self.maximum}")


@dataclasses.dataclass
class Choice:
    choices: list

    def check(self, name, value):
        if value not in self.choices:
            raise ValueError(f"{name} = {value} is none of {self.choices}")


class _Field:
    """Descriptor of one typed parameter."""

    def __init__(self, name, hint, default):
        isAnnotated = typing.get_origin(hint) is typing.Annotated
        self.name = name
        self.type = typing.get_args(hint)[0] if isAnnotated else hint
        self.validators = list(hint.__metadata__) if isAnnotated else []
        self.isNode = issubclass(self.type, vtk.vtkObject)
        self.default = default if default is not None or self.isNode else self.type()

    def validator(self, cls):
        return next((validator for validator in self.validators if isinstance(validator, cls)), None)

    def __get__(self, owner, _cls=None):
        if self.isNode:
            return owner.parameterNode.GetNodeReference(self.name)
        text = owner.parameterNode.GetParameter(self.name)
        return text == "True" if self.type is bool else self.type(text)

    def __set__(self, owner, value):
        if self.isNode:
            if value is not None and not isinstance(value, self.type):
                raise TypeError(f"{self.name} must be a {self.type.__name__}")
            owner.parameterNode.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if not isinstance(value, self.type):
            raise TypeError(f"{self.name} must be of {self.type}, is {value!r}")
        for validator in self.validators:
            validator.check(self.name, value)
        owner.parameterNode.SetParameter(self.name, str(value))


def parameterNodeWrapper(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: _Field(name, hint, cls.__dict__.get(name)) for name, hint in hints.items()}
    wrapper = type(cls.__name__, (_Wrapper,), {**fields, "_fields": fields, "__doc__": cls.__doc__})
    wrapper.__module__ = cls.__module__
    return wrapper


class _Wrapper:
    def __init__(self, parameterNode):
        self.parameterNode = parameterNode
        self._connections = {}
        for name, field in self._fields.items():
            if not field.isNode and not parameterNode.GetParameter(name):
                setattr(self, name, field.default)

    def __setattr__(self, name, value):
        if name[0] != "_" and name != "parameterNode" and name not in self._fields:
            raise AttributeError(f"{type(self).__name__} has no parameter '{name}'")
        object.__setattr__(self, name, value)

    def connectGui(self, gui):
        """Bind every widget that names a parameter; returns a tag for `disconnectGui`."""
        binding = _Binding(self)
        for widget in vars(gui).values():
            name = widget.property("SlicerParameterName") if hasattr(widget, "property") else None
            if name:
                binding.add(name, widget)
        tag = self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, binding.toWidgets)
        self._connections[tag] = binding
        binding.toWidgets()
        return tag

    def disconnectGui(self, tag):
        self.parameterNode.RemoveObserver(tag)
        self._connections.pop(tag).isActive = False


class _Binding:
    """Keeps widgets and parameters equal."""

    def __init__(self, owner):
        self.owner = owner
        self.isActive = True
        self.isBusy = False
        self.accessors = {}

    def add(self, name, widget):
        if name not in self.owner._fields:
            raise ValueError(f"the .ui file names the parameter '{name}', which does not exist")
        field = self.owner._fields[name]
        read, write, signal = _CONNECTORS[type(widget).__name__](widget, field)
        self.accessors[name] = read, write
        widget.connect(signal, lambda *_: self.fromWidget(name))

    def fromWidget(self, name):
        if self.isActive and not self.isBusy:
            setattr(self.owner, name, self.accessors[name][0]())

    def toWidgets(self, *_):
        if self.isBusy or not self.isActive:
            return
        self.isBusy = True
        try:
            for name, (_, write) in self.accessors.items():
                write(getattr(self.owner, name))
        finally:
            self.isBusy = False


def _nodeSelector(widget, field):
    if not field.isNode:
        raise RuntimeError("a node selector needs a parameter that is a node")
    return widget.currentNode, widget.setCurrentNode, "currentNodeChanged(vtkMRMLNode*)"


def _comboBox(widget, field):
    choice = field.validator(Choice)
    if choice is None:
        raise RuntimeError("a QComboBox needs a parameter with a Choice")
    widget.clear()
    for text in choice.choices:
        widget.addItem(text)
    return (
        lambda: choice.choices[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", choice.choices.index(value)),
        "currentIndexChanged(int)",
    )


def _spinBox(widget, field):
    limits = field.validator(WithinRange)
    if limits is not None:
        widget.minimum, widget.maximum = limits.minimum, limits.maximum
    return lambda: widget.value, lambda value: setattr(widget, "value", value), "valueChanged(int)"


_CONNECTORS = {"qMRMLNodeComboBox": _nodeSelector, "QComboBox": _comboBox, "QSpinBox": _spinBox}
