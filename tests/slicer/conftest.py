"""3D Slicer without the application: real MRML (slicer-core), PySide6 stand-ins for Qt, and a live server."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("QT_LOGGING_RULES", "qt.qpa.*=false")

HERE = Path(__file__).parent
MODULE = HERE.parents[1] / "slicer_extension" / "CounterfactualMRI"
INSTALL = "apt-get install -y --no-install-recommends libgl1 libegl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3"

sys.path[:0] = [str(HERE), str(HERE / "shim"), str(MODULE)]

try:
    import slicer
    import vtk
    from PySide6.QtWidgets import QApplication
except ImportError as error:
    MISSING = f"{error}. Install: {INSTALL}; pip install -e '.[test]'"
else:
    MISSING = ""

#: Tests that need neither Slicer nor Qt run without the libraries too.
NEED_NOTHING = {"test_client.py", "test_jobs.py", "test_multipart.py", "test_schema.py", "test_packaging.py", "test_purity.py"}
