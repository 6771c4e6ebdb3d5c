"""The panel's server section: address with history, token, certificate, and consent to sending images."""

from __future__ import annotations

from typing import Callable

import qt

from CounterfactualMRILib.client import isLoopback, mendedAddress
from CounterfactualMRILib.logic import DEFAULT_ADDRESS
from CounterfactualMRILib.problems import ServerProblem

_LONGEST_HISTORY = 8


class ServerSection:
    """Keeps the logic's server equal to what is entered.

    Addresses and consent are kept in the application's settings; the token is not, and it is forgotten when another
    server is entered.

    Args:
        ui: The panel's widgets.
        logic: Module logic.
        onChange: Called when another server was entered, or consent was given or taken back.
    """

    def __init__(self, ui, logic, onChange: Callable[[], None]) -> None:
        self._ui, self._logic, self._onChange = ui, logic, onChange
        self._tokensAddress = ""
        for address in _setting("addresses") or [DEFAULT_ADDRESS]:
            ui.addressComboBox.addItem(address)
        ui.addressComboBox.connect("currentTextChanged(QString)", self.onServerChanged)
        ui.tokenLineEdit.connect("textChanged(QString)", self.onServerChanged)
        ui.certificatePathLineEdit.connect("currentPathChanged(QString)", self.onServerChanged)
        ui.consentCheckBox.connect("toggled(bool)", self.onConsent)

    def onServerChanged(self, *_) -> None:
        """Use the server that is entered now; what the earlier one offered, and its token, is forgotten."""
        ui = self._ui
        if self.address() != self._tokensAddress:
            self._tokensAddress = self.address()
            ui.tokenLineEdit.text = ""
        self._logic.setServer(
            ui.addressComboBox.currentText, ui.tokenLineEdit.text, ui.certificatePathLineEdit.currentPath
        )
        ui.connectionLabel.text = "Not connected."
        address = self.address()
        ui.consentCheckBox.visible = bool(address) and not isLoopback(address)
        ui.consentCheckBox.checked = address in _setting("consented")
        self._onChange()

    def onConsent(self, consented: bool) -> None:
        """Remember whether images may be sent to this server."""
        address = self.address()
        others = [server for server in _setting("consented") if server != address]
        _saveSetting("consented", [*others, address] if consented and address else others)
        self._onChange()

    def mayUpload(self) -> bool:
        """Tell whether images may be sent: to this computer always, elsewhere after consent."""
        address = self.address()
        return bool(address) and (isLoopback(address) or self._ui.consentCheckBox.checked)

    def remember(self) -> None:
        """Put the address first in the history."""
        address = self.address()
        others = [earlier for earlier in _setting("addresses") if earlier != address]
        _saveSetting("addresses", [address, *others][:_LONGEST_HISTORY])

    def address(self) -> str:
        """Return the address as it will be used, empty if it is malformed."""
        try:
            return mendedAddress(self._ui.addressComboBox.currentText)
        except ServerProblem:
            return ""


def lastAddress() -> str:
    """Return the address that the last connection went to."""
    return next(iter(_setting("addresses")), DEFAULT_ADDRESS)


def _setting(key: str) -> list[str]:
    # QSettings gives a list of one back as its only element.
    value = qt.QSettings().value("CounterfactualMRI/" + key) or []
    return [value] if isinstance(value, str) else list(value)


def _saveSetting(key: str, value: list[str]) -> None:
    qt.QSettings().setValue("CounterfactualMRI/" + key, value)
