"""The stand-ins refuse what PythonQt refuses, and a printed C++ error fails a test."""

import pytest
import qt
import slicer
import vtk


def test_properties_are_attributes():
    label = qt.QLabel()
    label.text = "one"
    assert label.text == "one"
    with pytest.raises(TypeError):
        label.text()


def test_an_unknown_attribute_cannot_be_set():
    with pytest.raises(AttributeError):
        qt.QLabel().txet = "one"


def test_an_unknown_signal_cannot_be_connected():
    for signature in ("nope()", "clicked(int)"):
        with pytest.raises(ValueError, match="does not exist"):
            qt.QPushButton().connect(signature, print)


def test_signals_pass_their_arguments():
    got = []
    button, box = qt.QPushButton(), qt.QSpinBox()
    button.connect("clicked(bool)", got.append)
    button.connect("clicked()", lambda: got.append("clicked"))
    box.connect("valueChanged(int)", got.append)
    button.click()
    box.value = 7
    assert got == [False, "clicked", 7]


def test_an_unknown_custom_widget_is_an_error(tmp_path):
    path = tmp_path / "a.ui"
    path.write_text('<ui version="4.0"><class>A</class><widget class="ctkUnheardOf" name="A"/></ui>')
    with pytest.raises(RuntimeError):
        slicer.util.loadUI(str(path))


def test_a_printed_error_is_caught(cpp_errors, tmp_path):
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(tmp_path / "absent.nrrd"))
    storage.ReadData(slicer.vtkMRMLScalarVolumeNode())
    assert cpp_errors
    cpp_errors.clear()
    assert vtk.vtkVersion.GetVTKMajorVersion() >= 9
