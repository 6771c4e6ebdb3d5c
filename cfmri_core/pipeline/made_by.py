"""What the evidence of every edit begins with."""

from __future__ import annotations

from typing import Any, Protocol

import cfmri_core


class _Model(Protocol):
    @property
    def kind(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def preset(self) -> str: ...


def made_by(model: _Model) -> dict[str, Any]:
    """Say that a result is synthetic, and which version and weights made it; JSON-ready."""
    return {
        "synthetic": True,
        "cfmri_version": cfmri_core.__version__,
        "model": {"kind": model.kind, "sha256": model.sha256, "preset": model.preset},
    }
