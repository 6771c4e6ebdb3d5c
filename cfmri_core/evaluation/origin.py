"""Where a result came from, so that somebody else can make it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from cfmri_core import __version__

_PACKAGES = ("torch", "monai", "numpy")


def provenance() -> dict[str, str]:
    """Return command, git commit, versions and machine of this run."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else _cpu_name()
    return {
        "command": command_line(),
        "cfmri": __version__,
        "git commit": git_commit(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {device}",
    }


def command_line() -> str:
    """Return the command as typed, the program by its name alone."""
    name = Path(sys.argv[0]).name
    return shlex.join(["cfmri" if name == "__main__.py" else name, *sys.argv[1:]])


def git_commit() -> str:
    """Return the commit of the checkout this package lies in, with '(modified)' where files differ from it."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    if not commit:
        return "not a checkout"
    return f"{commit} (modified)" if _git(here, "status", "--porcelain", "--untracked-files=no") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - fixed command, no shell
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - git is found on the path like everywhere
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"
