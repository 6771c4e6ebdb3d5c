"""The server that is in use: opened at the first request, asked once what it offers. No Slicer, no Qt."""

from __future__ import annotations

from CounterfactualMRILib.client import Client
from CounterfactualMRILib.problems import NOT_CFMRI, ServerProblem
from CounterfactualMRILib.schema import Server


class Connection:
    """One server and how to reach it. Creating it sends nothing and checks nothing.

    Args:
        address: As the user wrote it.
        token: Bearer token, kept in memory only.
        caFile: Certificate authority, empty for the usual ones.

    Attributes:
        server: What the server offers; ``None`` until `open` has asked it.
    """

    def __init__(self, address: str, token: str = "", caFile: str = "") -> None:
        self.address = address
        self._token = token
        self._caFile = caFile
        self.server: Server | None = None

    def renewed(self) -> Connection:
        """Return the same server, not yet asked."""
        return Connection(self.address, self._token, self._caFile)

    def open(self) -> Client:
        """Return a client, after asking the server what it offers if that is not known yet.

        Raises:
            ServerProblem: Malformed address, unreachable, no cfmri server, or another version's.
        """
        client = Client(self.address, self._token, self._caFile)
        if self.server is None:
            self.server = client.describe()
        return client

    def openFor(self, model: str) -> Client:
        """Return a client of a server that is known to offer ``model``.

        Raises:
            ServerProblem: As `open`, or the server has no such model.
        """
        client = self.open()
        if model not in self.server.models:
            offered = ", ".join(sorted(self.server.models))
            hint = f"It offers: {offered}. `cfmri doctor` on the server tells which model files are missing."
            raise ServerProblem(NOT_CFMRI, f"The server offers no '{model}'.", hint)
        return client
