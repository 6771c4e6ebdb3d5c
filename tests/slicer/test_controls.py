import copy

import pytest
import qt
from CounterfactualMRILib.controls import ParameterControls
from CounterfactualMRILib.schema import parseInfo
from scripted_server import INFO

EXTRA = [
    {"name": "slices", "label": "Slices", "type": "text", "default": "", "role": "option", "help": "A:B"},
    {"name": "bias", "label": "Bias", "type": "boolean", "default": True, "role": "option"},
    {
        "name": "steps",
        "label": "Steps",
        "type": "integer",
        "minimum": 1,
        "maximum": 1000,
        "default": None,
        "role": "option",
    },
    {"name": "free", "label": "Free", "type": "number", "default": 2.0, "role": "option"},
]


@pytest.fixture
def made():
    info = copy.deepcopy(INFO)
    info["models"]["counterfactual"]["config"]["parameters"] += EXTRA
    container = qt.QWidget()
    qt.QGridLayout(container)
    changes = []
    parameters = parseInfo(info).models["counterfactual"].parameters
    controls = ParameterControls(container, parameters, lambda: changes.append(controls.values()))
    return controls, changes, container, parameters


DEFAULTS = {"method": "inversion", "seed": 0, "slices": "", "bias": True, "free": 2.0}


def test_defaults_are_sent_and_what_is_left_alone_is_not(made):
    controls, changes, _, _ = made
    assert controls.values() == DEFAULTS
    assert changes == []


def test_a_checked_parameter_is_sent_with_its_value(made):
    controls, changes, _, _ = made
    row = controls.rows["echo_time_ms"]
    assert not row.widget.enabled
    row.checkBox.checked = True
    assert row.widget.enabled
    row.widget.value = 1.4
    assert changes[-1]["echo_time_ms"] == 1.4
    controls.rows["field_strength_t"].checkBox.checked = True
    controls.rows["field_strength_t"].widget.currentIndex = 1
    controls.rows["steps"].checkBox.checked = True
    controls.rows["steps"].widget.value = 12
    controls.rows["slices"].widget.text = " 3:5 "
    controls.rows["bias"].widget.checked = False
    assert changes[-1] == {
        **DEFAULTS, "echo_time_ms": 1.4, "field_strength_t": 3.0, "steps": 12, "slices": "3:5", "bias": False
    }  # fmt: skip


def test_present_values_are_shown_and_start_the_unchecked(made):
    controls, changes, _, _ = made
    controls.setPresent({"echo_time_ms": 2.4, "field_strength_t": 7.0})
    assert controls.rows["echo_time_ms"].note.text == "now 2.4 ms"
    assert controls.rows["echo_time_ms"].value() == 2.4
    assert controls.rows["field_strength_t"].value() == 7.0
    assert controls.values() == DEFAULTS
    assert changes == []
    controls.setValues({"echo_time_ms": 1.5, "seed": 4})
    controls.setPresent({"echo_time_ms": 2.0})
    assert controls.values() == {**DEFAULTS, "seed": 4, "echo_time_ms": 1.5}
    controls.setPresent({})
    assert controls.rows["echo_time_ms"].note.text == ""


def test_a_value_outside_training_is_marked(made):
    controls, _, _, _ = made
    row = controls.rows["echo_time_ms"]
    row.checkBox.checked = True
    row.widget.value = 2.9
    assert "outside training" in row.note.text
    row.widget.value = 2.0
    assert row.note.text == ""
    controls.setPresent({"echo_time_ms": 2.0})
    assert row.note.toolTip == "2 ms. Trained from 1.2 ms to 2.7 ms"


def test_the_slider_spans_more_than_training_but_not_more_than_accepted(made):
    widget = made[0].rows["echo_time_ms"].widget
    assert widget.minimum == pytest.approx(0.01)
    assert widget.maximum == pytest.approx(4.2)


def test_new_controls_replace_the_old(made):
    _, _, container, parameters = made
    ParameterControls(container, parameters[:1], lambda: None)
    assert container.layout().count() == 3


def test_a_long_present_value_is_cut_but_told_in_the_tool_tip(made):
    row = made[0].rows["method"]
    row.setPresent("FAST_GEMS/SAT_GEMS/MP_GEMS")
    assert row.note.text == "now FAST_GEMS...S/MP_GEMS"
    assert row.note.toolTip == "FAST_GEMS/SAT_GEMS/MP_GEMS"
