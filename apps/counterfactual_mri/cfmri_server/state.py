"""Where a server keeps what it makes: one hidden folder inside the studies it serves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

FOLDER_NAME = ".monailabel"


@dataclass(frozen=True)
class StateFolder:
    """The server's own folder of one studies folder.

    Attributes:
        root: ``STUDIES/.monailabel``.
    """

    root: Path

    @classmethod
    def of(cls, studies: Path) -> StateFolder:
        """Return the state folder that belongs to a studies folder (it need not exist yet)."""
        return cls(Path(studies).resolve() / FOLDER_NAME)

    @property
    def datastore(self) -> Path:
        """Images converted from DICOM, their sidecars, and ``labels/``."""
        return self.root / "datastore"

    @property
    def models(self) -> Path:
        """Models published by training on this server."""
        return self.root / "models"

    @property
    def archive(self) -> Path:
        """What was fetched from a DICOMweb archive, and what is to be stored there."""
        return self.root / "archive"

    @property
    def work(self) -> Path:
        """Uploads and results; emptied at every start."""
        return self.root / "work"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.root / "logs" / "server.log"

    def training(self, model: str) -> Path:
        """Checkpoints and TensorBoard logs of one model's training."""
        return self.root / "training" / model

    def progress_file(self, model: str) -> Path:
        """The JSON file that tells how far one model's training is."""
        return self.training(model) / "progress.json"

    def clear_work(self) -> Path:
        """Empty the work folder, readable by its owner only, and return it."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True, mode=0o700)
        return self.work
