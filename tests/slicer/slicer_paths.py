"""Where things are; importing this puts the stand-ins and the module on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MODULE = ROOT / "slicer_extension" / "CounterfactualMRI"

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
for _folder in (MODULE, HERE / "shim", HERE):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
