"""Bearer tokens: who holds one, in which role. The file keeps their SHA-256 only; a token is shown once, when made."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cfmri_core.errors import RequestError
from cfmri_core.io.atomic import atomic_file

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER = (
    "# One line for each token of a cfmri server: name, role, SHA-256 of the token. Remove a line to withdraw it.\n"
)


class Role(IntEnum):
    """What a client may do; each role may do what those before it may."""

    ANYONE = 0
    READER = 1
    ANNOTATOR = 2
    ADMIN = 3


#: Roles that a token can carry, by name.
ROLES = {role.name.lower(): role for role in Role if role is not Role.ANYONE}


@dataclass(frozen=True)
class Holder:
    """Whose token it is.

    Attributes:
        name: Name in the token file; this is what the audit log says.
        role: What the holder may do.
    """

    name: str
    role: Role


#: Who a request is from while a server on loopback asks for no token: whoever is logged in on this machine.
LOCAL = Holder("local", Role.ADMIN)


class TokenFile:
    """The tokens that a server accepts. A changed file counts from the next request on.

    Args:
        path: What `add_token` wrote.

    Raises:
        RequestError: The file is absent, not private, malformed, or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp, self._holders = _stamp(path), _read(path)
        if not self._holders:
            raise RequestError(f"{path} holds no token.", f"Make one with: {_command(path)}")

    def holder(self, token: str) -> Holder | None:
        """Return who holds a token, ``None`` for nobody; it takes as long for a wrong token as for a right one.

        Raises:
            RequestError: The file was made unreadable or malformed meanwhile; nobody is let in then.
        """
        digest = _digest(token)
        found = None
        for known, holder in self._current().items():
            if hmac.compare_digest(known, digest):
                found = holder
        return found

    def _current(self) -> dict[str, Holder]:
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._holders = _read(self._path)
                self._stamp = stamp
            return self._holders


def add_token(path: Path, name: str, role: str) -> str:
    """Make a token, add its SHA-256 to the file, and return the token, which is kept nowhere.

    Raises:
        RequestError: Name or role cannot be, or the name has a token already.
    """
    if not _NAME.fullmatch(name) or name == LOCAL.name:
        raise RequestError(f"'{name}' cannot be the name of a token.", "Use 1 to 64 of A-Z a-z 0-9 . _ -, not 'local'.")
    if role not in ROLES:
        raise RequestError(f"There is no role '{role}'.", f"Use one of: {', '.join(ROLES)}.")
    holders = _read(path) if path.exists() else {}
    if name in {holder.name for holder in holders.values()}:
        raise RequestError(f"{name} has a token in {path}.", "Remove that line to withdraw it, or choose another name.")
    token = f"cfmri_{secrets.token_urlsafe(32)}"
    before = path.read_text(encoding="utf-8") if path.exists() else _HEADER
    with atomic_file(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(f"{before.rstrip()}\n{name} {role} {_digest(token)}\n", encoding="utf-8")
    return token


def require_private(path: Path, what: str, closed_to: int = 0o077) -> None:
    """Check that a file is there and that other accounts can neither read nor write it.

    Args:
        path: The file.
        what: What it is, for the message.
        closed_to: Permission bits that must not be set; the default closes it to the group as well.

    Raises:
        RequestError: It is absent, or not private.
    """
    if not path.is_file():
        raise RequestError(f"There is no {what} {path}.", "Check the path.")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & closed_to:
        raise RequestError(f"The {what} {path} is open to other accounts.", f"Close it with: chmod 600 {path}")


def _read(path: Path) -> dict[str, Holder]:
    """Return the holders by the SHA-256 of their tokens."""
    if not path.exists():
        raise RequestError(f"There is no token file {path}.", f"Make one with: {_command(path)}")
    require_private(path, "token file")
    holders: dict[str, Holder] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or not _NAME.fullmatch(words[0]) or words[1] not in ROLES or not _SHA256.fullmatch(words[2]):
            accepted = f"NAME ROLE SHA256 with a role of {', '.join(ROLES)}"
            raise RequestError(f"{path}, line {number} is not a token: {accepted}.", f"Make one with: {_command(path)}")
        if words[0] in {holder.name for holder in holders.values()}:
            raise RequestError(
                f"{path}, line {number}: {words[0]} has a token already.", "Remove one of the two lines."
            )
        holders[words[2]] = Holder(words[0], ROLES[words[1]])
    return holders


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", errors="surrogatepass")).hexdigest()


def _command(path: Path) -> str:
    return f"cfmri token NAME --role annotator --tokens {path}"
