"""dciodvfy, a DICOM validator that shares no code with pydicom (Debian: dicom3tools)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

#: Whether content is synthetic, (0008,001C), is younger than the validator.
NEW_TAG = "(0x0008,0x001c)"


def complaints(path: Path) -> list[str]:
    """Lines of dciodvfy about a file that are errors, but those about `NEW_TAG`; without it the test is skipped."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (apt-get install dicom3tools)")
    output = subprocess.run([program, path], capture_output=True, text=True, errors="replace", check=False)
    lines = (output.stdout + output.stderr).splitlines()
    return [line for line in lines if line.startswith("Error") and NEW_TAG not in line]
