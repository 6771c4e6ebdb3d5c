"""How the scanners of a site differ from those that an editor was trained on, learned from the site's own scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cfmri_core.acquisition import AcquisitionParameters
from cfmri_core.models.companion import checked_companion, read_companion, write_companion

FILE_NAME = "scanners.json"


@dataclass(frozen=True)
class Scanners:
    """What is known about scanner models beyond an editor's training; empty where nothing was fitted.

    Attributes:
        log_fat_left: By scanner model, the logarithm of the fat that its suppression leaves over what the editor takes
            it to leave. Only differences between scanners count.
        scans: By scanner model, how many scans that was learned from.
    """

    log_fat_left: Mapping[str, float] = field(default_factory=dict)
    scans: Mapping[str, int] = field(default_factory=dict)

    def fat_change(self, source: AcquisitionParameters, target: AcquisitionParameters) -> float:
        """Return what to add to the logarithm of residual fat read off one scanner's scan to show it on another's."""
        known = [self.log_fat_left.get(one.manufacturer_model or "", 0.0) for one in (source, target)]
        return known[1] - known[0]

    def write(self, folder: Path, sha256: str) -> Path:
        """Write it beside a model's weights; see `write_companion`."""
        return write_companion(folder, FILE_NAME, sha256, {"log_fat_left": self.log_fat_left, "scans": self.scans})

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
            fat = {str(model): float(value) for model, value in values["log_fat_left"].items()}
            return cls(fat, {str(model): int(value) for model, value in values["scans"].items()})
