"""How long work tells where it stands, and how it is cancelled."""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``progress(step, total, message)``. Raise `cfmri_core.errors.Cancelled` in it to cancel.
Progress = Callable[[int, int, str], None]


def silent(step: int, total: int, message: str) -> None:
    """Report nothing."""
