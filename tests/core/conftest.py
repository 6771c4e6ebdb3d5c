"""Fixtures of the core tests, and the path to `phantoms`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def shared_data_folder() -> Path | None:
    """Folder of real images that are not part of the repository, or ``None``."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("CFMRI_SHARED_DATA", beside))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_dicom() -> Path:
    """Folder of real DICOM of several vendors."""
    folder = shared_data_folder()
    if folder is None or not (folder / "dicom").is_dir():
        pytest.skip("no real DICOM here: set CFMRI_SHARED_DATA to a folder with dicom/ in it")
    return folder / "dicom"


def pytest_configure(config: pytest.Config) -> None:
    """Silence the parsers as `cfmri_core.dicom.parser` does: pytest puts its own warning filters on top."""
    names = ("charset", "dataelem", "dataset", "filereader", "pixel_data_handlers.numpy_handler", "valuerep")
    for module in (*(f"pydicom.{name}" for name in names), "highdicom.valuerep", "openjpeg.utils"):
        config.addinivalue_line("filterwarnings", f"ignore::UserWarning:{module}")
