"""From where a server can be reached, and what must guard it there: this machine alone, or more with tokens and TLS."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cfmri_core.errors import RequestError
from cfmri_server.tokens import TokenFile, require_private

#: Names by which a loopback server may be called; anything else may be a web page's DNS trick.
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - what is refused without tokens and TLS
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?")

#: Variables by which the settings reach the application, which a web server imports by name.
_TOKENS, _HOSTS, _ORIGINS = "CFMRI_TOKENS", "CFMRI_ALLOWED_HOSTS", "CFMRI_ALLOWED_ORIGINS"


@dataclass(frozen=True)
class Exposure:
    """Where a server listens and whom it answers.

    Attributes:
        host: Address to listen on.
        tokens: Token file; without one everybody on this machine is let in.
        tls_certificate: Certificate chain, PEM.
        tls_key: Private key of the certificate, PEM without password.
        allowed_hosts: Names by which clients call the server, beside loopback and ``host``.
        allowed_origins: Web pages that may read answers, as ``https://host``; never with a browser's own credentials.
    """

    host: str = "127.0.0.1"
    tokens: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    @property
    def host_names(self) -> frozenset[str]:
        """Every name that the Host header may hold, in lower case and without port."""
        own = () if self.host in _EVERY_ADDRESS else (_bracketed(self.host),)
        return LOOPBACK_HOSTS | {name.lower() for name in (*self.allowed_hosts, *own)}

    def url(self, port: int) -> str:
        """Return the address to tell users."""
        name = self.allowed_hosts[0] if self.host in _EVERY_ADDRESS else _bracketed(self.host)
        return f"{'https' if self.tls_certificate else 'http'}://{name}:{port}"

    def check(self) -> None:
        """Check that nothing is missing and that every file can be used.

        Raises:
            RequestError: The server must not start so; the message says what to mend.
        """
        self._require_what_is_needed()
        if self.tokens:
            TokenFile(self.tokens)
        if self.tls_certificate and self.tls_key:
            _require_tls(self.tls_certificate, self.tls_key)
        for name in self.allowed_hosts:
            if not _HOST.fullmatch(name):
                raise RequestError(
                    f"'{name}' is not a host name.", "Write it without http:// and port: mri.example.org."
                )
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise RequestError(
                    f"'{origin}' is not the origin of a web page.", "Write it as https://viewer.example.org."
                )

    def environment(self) -> dict[str, str]:
        """Return the variables that `from_environment` reads; a web server's own options are not among them."""
        return {
            _TOKENS: str(self.tokens.resolve()) if self.tokens else "",
            _HOSTS: ",".join(sorted(self.host_names - LOOPBACK_HOSTS)),
            _ORIGINS: ",".join(self.allowed_origins),
        }

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Exposure:
        """Return what the application must know; nothing set means loopback without tokens."""
        tokens = variables.get(_TOKENS)
        hosts, origins = (tuple(filter(None, variables.get(name, "").split(","))) for name in (_HOSTS, _ORIGINS))
        return cls(tokens=Path(tokens) if tokens else None, allowed_hosts=hosts, allowed_origins=origins)

    def _require_what_is_needed(self) -> None:
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise RequestError(
                "A certificate and its key go together.", "Give --tls-certificate PEM and --tls-key PEM."
            )
        if is_loopback(self.host):
            return
        needed = {"--tokens FILE": self.tokens, "--tls-certificate PEM --tls-key PEM": self.tls_key}
        if self.host in _EVERY_ADDRESS:
            needed["--allowed-host NAME"] = self.allowed_hosts
        missing = [option for option, value in needed.items() if not value]
        if missing:
            raise RequestError(
                f"Listening on {self.host} is refused: beyond this machine a server needs tokens and TLS.",
                f"Add {' '.join(missing)}, or stay on 127.0.0.1 behind an SSH tunnel or a reverse proxy.",
            )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _require_tls(certificate: Path, key: Path) -> None:
    if not certificate.is_file():
        raise RequestError(f"There is no TLS certificate {certificate}.", "Check the path.")
    require_private(key, "TLS key", closed_to=0o007)  # Debian keeps keys readable for a group
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise RequestError(f"{certificate} holds no certificate.", "It must be a PEM file.") from error
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise RequestError(
                f"{key} is not the key of {certificate}.", "Give the two that were made together."
            ) from None
        raise RequestError(
            f"{key} holds no key that can be read.", "It must be a PEM file without password."
        ) from error
