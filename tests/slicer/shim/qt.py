"""Stand-in for PythonQt's `qt`, on PySide6, written from PythonQt's documentation.

Code that works here must work in Slicer, so PySide idioms fail as they do there: properties are
attributes (``label.text``, never ``label.text()``), signals are connected by their C++ signature,
an unknown attribute cannot be set on a widget.
"""

import xml.etree.ElementTree as ElementTree
from typing import ClassVar

from PySide6 import QtCore, QtGui, QtNetwork, QtUiTools, QtWidgets
from PySide6.QtCore import QObject, Qt  # noqa: F401

_LOOKUP = (QtCore, QtGui, QtWidgets, QtNetwork)
_wrapped = {}

#: Properties whose getter is a virtual function: PySide looks it up by name before it calls it, endlessly.
_VIRTUAL = ("sizeHint", "minimumSizeHint")

#: Stand-ins of custom widgets by class name; `ctk` and the slicer stand-ins add theirs.
CUSTOM_WIDGETS = {}


class PythonQtObject:
    """Mixed in before a PySide class; gives its instances PythonQt's manners."""

    #: C++ signal signatures of a stand-in that Python cannot declare: {"f(vtkMRMLNode*)": "f(PyObject)"}
    _signatures: ClassVar[dict] = {}

    def __getattribute__(self, name):
        if name == "connect":
            return lambda signature, slot: _connect(self, signature, slot)
        if name == "disconnect":
            return lambda signature, slot: _disconnect(self, signature, slot)
        if _hasProperty(self, name):
            return QObject.property(self, _propertyName(name))
        return super().__getattribute__(name)

    def __setattr__(self, name, value):
        if _hasProperty(self, name):
            if not QObject.setProperty(self, _propertyName(name), value):
                raise ValueError(f"{type(self).__name__}.{name} cannot be set to {value!r}")
        elif name.startswith("_") or hasattr(type(self), name) or type(self).__module__ != __name__:
            super().__setattr__(name, value)
        else:
            raise AttributeError(f"'{name}' does not exist on {type(self).__name__}")


def _propertyName(name):
    return "objectName" if name == "name" else name


def _hasProperty(widget, name):
    if name[0] == "_" or name in _VIRTUAL or (name == "text" and isinstance(widget, QtWidgets.QProgressBar)):
        return False
    return QObject.metaObject(widget).indexOfProperty(_propertyName(name)) >= 0


def _connect(sender, signature, slot):
    signal = type(sender)._signatures.get(signature, signature)
    normalized = bytes(QtCore.QMetaObject.normalizedSignature(signal)).decode()
    if QObject.metaObject(sender).indexOfSignal(normalized) < 0:
        raise ValueError(f"Signal {signature} does not exist on {type(sender).__name__}")
    adapter = _ofArity(slot, 0 if signal.endswith("()") else signal.count(",") + 1)
    return QObject.connect(sender, QtCore.SIGNAL(signal), adapter)


def _disconnect(sender, signature, slot):
    raise NotImplementedError("the stand-in keeps no list of connections")


def _ofArity(slot, arity):
    """PySide counts a slot's arguments; PythonQt passes as many as the slot takes."""
    return (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b))[arity]


def _wrap(cls):
    if cls not in _wrapped:
        _wrapped[cls] = type(cls.__name__, (PythonQtObject, cls), {"__module__": __name__})
    return _wrapped[cls]


def __getattr__(name):
    for module in _LOOKUP:
        found = getattr(module, name, None)
        if found is None:
            continue
        isObject = isinstance(found, type) and issubclass(found, QObject)
        return _wrap(found) if isObject and not issubclass(found, QtCore.QCoreApplication) else found
    raise AttributeError(f"module 'qt' has no attribute '{name}'")


class QUiLoader(QtUiTools.QUiLoader):
    """Loads .ui files with stand-ins for custom widgets; a widget without one is an error."""

    def load(self, file):
        path = file.fileName()
        # Connections of custom signals are made below; Qt's own loader only knows C++ ones and warns.
        root = ElementTree.parse(path).getroot()
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        data = QtCore.QBuffer()
        data.setData(ElementTree.tostring(root))
        data.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(data)
        for connection in [] if connections is None else connections:
            _connectFromUi(widget, connection)
        return widget

    def createWidget(self, className, parent=None, name=""):
        cls = CUSTOM_WIDGETS.get(className)
        if cls is None and hasattr(QtWidgets, className):
            cls = _wrap(getattr(QtWidgets, className))
        if cls is None:
            raise RuntimeError(f"no stand-in for the custom widget {className}")
        widget = cls(parent)
        widget.setObjectName(name)
        return widget


def _connectFromUi(root, connection):
    def find(tag):
        name = connection.find(tag).text
        found = root if QObject.objectName(root) == name else root.findChild(QObject, name)
        if found is None:
            raise RuntimeError(f"the .ui file connects '{name}', which it does not have")
        return found

    slot = getattr(find("receiver"), connection.find("slot").text.split("(")[0])
    find("sender").connect(connection.find("signal").text, slot)
