"""The `cfmri` command line: one module per group of commands, heavy imports inside the commands."""

from cfmri_core.cli.program import app, main

__all__ = ["app", "main"]
