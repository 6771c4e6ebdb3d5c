from types import SimpleNamespace

import ctk
import pytest
import qt
from CounterfactualMRILib.server_section import ServerSection


class Logic:
    def setServer(self, *server):
        self.server = server


@pytest.fixture
def made():
    qt.QSettings().clear()
    ui = SimpleNamespace(
        addressComboBox=qt.QComboBox(),
        tokenLineEdit=qt.QLineEdit(),
        certificatePathLineEdit=ctk.ctkPathLineEdit(),
        connectionLabel=qt.QLabel(),
        consentCheckBox=qt.QCheckBox(),
    )
    ui.addressComboBox.editable = True
    logic, changes = Logic(), []
    section = ServerSection(ui, logic, lambda: changes.append(1))
    section.onServerChanged()
    return section, ui, logic, changes


def test_the_logic_follows_what_is_entered(made):
    section, ui, logic, changes = made
    assert logic.server == ("http://127.0.0.1:8000", "", "")
    ui.addressComboBox.currentText = "https://host"
    ui.tokenLineEdit.text = "secret"
    ui.certificatePathLineEdit.currentPath = "/ca.pem"
    assert logic.server == ("https://host", "secret", "/ca.pem")
    assert section.address() == "https://host"
    assert changes


def test_a_malformed_address_allows_nothing(made):
    section, ui, _, _ = made
    ui.addressComboBox.currentText = "two words"
    assert section.address() == ""
    assert not section.mayUpload()
    ui.consentCheckBox.checked = True
    assert not section.mayUpload()


def test_history_has_the_newest_first_and_an_end(made):
    section, ui, _, _ = made
    for number in range(12):
        ui.addressComboBox.currentText = f"http://host{number}"
        section.remember()
    section.remember()
    fresh = SimpleNamespace(**{**vars(ui), "addressComboBox": qt.QComboBox()})
    ServerSection(fresh, Logic(), lambda: None)
    shown = [fresh.addressComboBox.itemText(index) for index in range(fresh.addressComboBox.count)]
    assert shown == [f"http://host{number}" for number in range(11, 3, -1)]


def test_consent_is_kept_per_server(made):
    _, ui, _, _ = made
    ui.addressComboBox.currentText = "http://a"
    ui.consentCheckBox.checked = True
    ui.addressComboBox.currentText = "http://b"
    assert not ui.consentCheckBox.checked
    ui.addressComboBox.currentText = "http://a"
    assert ui.consentCheckBox.checked
    ui.consentCheckBox.checked = False
    ui.addressComboBox.currentText = "http://b"
    ui.addressComboBox.currentText = "http://a"
    assert not ui.consentCheckBox.checked


def test_a_token_goes_to_no_other_server(made):
    _, ui, logic, _ = made
    ui.addressComboBox.currentText = "https://a"
    ui.tokenLineEdit.text = "secret"
    ui.addressComboBox.currentText = "https://a/"  # the same, written otherwise
    assert logic.server[1] == "secret"
    ui.addressComboBox.currentText = "https://b"
    assert logic.server == ("https://b", "", "")
    assert ui.tokenLineEdit.text == ""
    ui.addressComboBox.currentText = "https://a"
    assert logic.server[1] == ""
