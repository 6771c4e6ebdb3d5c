"""Presets and other volumes as requests, in the panel."""

from CounterfactualMRILib import preset_section
from event_loop import connected
from mrml_fixtures import makeVolume


def test_a_preset_asks_for_what_differs_from_the_volume(panel, qapp, scripted):
    makeVolume()
    ui = connected(panel, qapp, scripted())
    panel._setFactual({"field_strength_t": 1.5})
    assert ui.presetComboBox.enabled
    ui.presetComboBox.currentIndex = 1
    assert panel.targets.values() == {"echo_time_ms": 2.3}
    assert ui.generateButton.enabled


def test_parameters_are_taken_from_another_volume(panel, qapp, scripted, monkeypatch):
    makeVolume()
    other = makeVolume(name="other")
    ui = connected(panel, qapp, scripted())
    ui.likeSelector.setCurrentNode(other)
    assert "No acquisition parameters of other are known" in ui.statusLabel.text
    monkeypatch.setattr(preset_section, "readAcquisition", lambda node: {"echo_time_ms": 1.9, "unknown": 3})
    ui.likeSelector.setCurrentNode(None)
    ui.likeSelector.setCurrentNode(other)
    assert panel.targets.values() == {"echo_time_ms": 1.9}


def test_before_a_connection_nothing_is_asked_for(panel):
    makeVolume()
    assert not panel.ui.presetComboBox.enabled
    panel._ask({"echo_time_ms": 1.9})
    assert panel.parameterNode.requested == "{}"
