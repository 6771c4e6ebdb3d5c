"""How the scanners of a site differ from those that an editor was trained on, learned from the site's own scans."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.io.json_text import json_text, number
from cfmri_core.models.companion import checked_companion, read_companion, weights_sha256, write_companion
from cfmri_core.models.signal_decoder import suppresses_fat

FILE_NAME = "scanners.json"


def identity_of(folder: Path) -> str:
    """Digest of a model in a folder together with what was fitted to scanners, without loading it.

    Raises:
        CheckpointError: It is not a model folder, or what was fitted belongs to other weights.
    """
    sha256 = weights_sha256(folder)
    return Scanners.read(folder, sha256).identity(sha256)


@dataclass(frozen=True)
class Scanners:
    """What is known about scanner models beyond an editor's training; empty where nothing was fitted.

    Attributes:
        log_fat_left: By scanner model, the logarithm of the fat that its suppression leaves over what the editor takes
            it to leave. Only differences between scanners count.
        patients: By scanner model, how many patients that was learned from.
    """

    log_fat_left: Mapping[str, float] = field(default_factory=dict)
    patients: Mapping[str, int] = field(default_factory=dict)

    def fat_change(self, source: AcquisitionParameters, target: AcquisitionParameters) -> float:
        """Return what to add to the logarithm of residual fat read off one scanner's scan to show it on another's."""
        return self._known(target) - self._known(source)

    def _known(self, parameters: AcquisitionParameters) -> float:
        is_concerned = suppresses_fat(parameters.scan_options)
        return self.log_fat_left.get(parameters.manufacturer_model or "", 0.0) if is_concerned else 0.0

    def identity(self, sha256: str) -> str:
        """Return a digest of weights together with this, or that of the weights where nothing was fitted."""
        if not self.patients:
            return sha256
        return hashlib.sha256(json_text([sha256, self.log_fat_left], indent=None).encode()).hexdigest()

    def write(self, folder: Path, sha256: str) -> Path:
        """Write it beside a model's weights; see `write_companion`."""
        return write_companion(folder, FILE_NAME, sha256, vars(self))

    @classmethod
    def read(cls, folder: Path, sha256: str) -> Self:
        """Read it from a model folder, empty where there is none.

        Raises:
            CheckpointError: It is damaged or belongs to other weights.
        """
        values = read_companion(folder, FILE_NAME, sha256)
        if values is None:
            return cls()
        with checked_companion(Path(folder) / FILE_NAME):
            fat = {model: number(value) for model, value in dict(values["log_fat_left"]).items()}
            return cls(fat, {model: int(number(count, 0)) for model, count in dict(values["patients"]).items()})
