"""Simulated studies for a live server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def simulated(root: Path, subjects: int, seed: int, slabMm: float) -> Path:
    """Fill a folder with simulated studies and return it.

    By the command line and not in this process: simulating forks, and a fork of a process in which Qt and VTK
    have threads may hang.
    """
    options = {"--subjects": subjects, "--seed": seed, "--slab-mm": slabMm}
    command = [sys.executable, "-m", "cfmri_core", "simulate", str(root)]
    command += [str(word) for option in options.items() for word in option]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root
